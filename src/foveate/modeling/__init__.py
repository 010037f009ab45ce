"""Models: backbones, task heads, fine-tuning methods and closed-form classifiers."""
