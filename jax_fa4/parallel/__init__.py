"""Context parallelism: attention over sequences that are split over the devices of a mesh."""
