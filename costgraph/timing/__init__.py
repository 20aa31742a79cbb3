"""Cost and machine become times: the roofline and calibrated forms."""
