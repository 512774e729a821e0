"""Metrics of a set of images against a reference set, by features: FID and its kin, KID, CMMD, precision and recall,
IS.

One metric, one file, each a `SetMetric` under its name in the registry (`concord.metrics.base.get_metric`). `moments`
holds the mean and covariance that they share.
"""
