"""Speed and memory of the package, measured against a plain implementation with PEFT and transformers."""
