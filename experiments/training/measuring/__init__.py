"""What training measures beside the losses."""
