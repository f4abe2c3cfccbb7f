"""What happens at night: labelled frames to a candidate model, a gate, and a proposal."""
