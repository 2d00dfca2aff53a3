"""What this package costs, measured in turn against what a careful user of PEFT and transformers would write."""
