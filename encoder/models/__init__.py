"""The models: the encoder with its fusion, the segmenter, the files that hold them, and the device they run on."""
