"""What the two radiance fields, DVGO and Instant-NGP, are made of."""
