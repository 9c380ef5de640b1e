"""Fine-tuning examples whose loss falls on exactly the tokens the model has to generate."""
