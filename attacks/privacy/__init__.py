"""Privacy attacks: they measure what a trained model reveals about its training rows."""
