"""The soft prompt: its value, its files (a PEFT adapter), its KV cache prefix, corruption, and tuning."""
