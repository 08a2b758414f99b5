"""Numbers of the paper that are defaults here; apart from all that is heavy, so that `--help` can show them at once."""

# Section IV, "Implementation details"; coarsest first.
TAU_MAX = (25000, 10000, 5000, 2000, 1000, 750, 500)
TAU_MIN = 50
MP16_PHOTOS = 4_700_000  # that these bounds are for

TEMPERATURE = 0.07  # of every level, and where nothing was fitted: CLIP's initial value

# What the published evaluations report: street, city, region, country, continent, in km. The paper's tables have them,
# too; its prose says 1, 5, 25, 750 and 2500, which is a slip.
THRESHOLDS_KM = (1.0, 25.0, 200.0, 750.0, 2500.0)
