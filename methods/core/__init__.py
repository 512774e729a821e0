"""The mathematics that methods share: schedules, samplers, noise."""
