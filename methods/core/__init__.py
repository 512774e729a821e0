"""The mathematics that methods share, without a network in it: schedules, samplers, noise, experts, masked images.

A method imports from here what its paper takes as known (`sampler.ddim`, `noise.draw_noise`, `schedule.Schedule`,
`experts.bind_experts`); a method never imports another method.
"""
