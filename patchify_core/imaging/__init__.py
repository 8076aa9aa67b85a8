"""Read pictures and archives from untrusted sources: limits, decoding to upright RGB, file names, boxes and drawing."""
