"""Measures of how good samples, densities, predictions and codes are.

Lives here: functions of sample sets (distances, two-sample tests, copies), of log densities (means, bits, bounds), of
predictions (classes, numbers) and of codes (probes). All take arrays or tensors and return numbers with standard errors.
Never here: models, data sets, training, files or plots.
"""

from pushforward.metrics._arrays import Estimate
from pushforward.metrics.classification import accuracy, brier, calibration_error, confusion_matrix, log_loss, top_k
from pushforward.metrics.distances import energy_distance, frechet_gaussian, mmd, sliced_wasserstein, wasserstein_exact
from pushforward.metrics.likelihood import Likelihood, effective_sample_size, log_mean_exp, mean_with_error, summary
from pushforward.metrics.memorisation import NearestNeighbours, nearest_neighbours
from pushforward.metrics.probes import effective_rank, knn_accuracy, linear_probe
from pushforward.metrics.regression import mae, r2, rmse
from pushforward.metrics.two_sample import ClassifierTwoSample, classifier_two_sample

__all__ = [
    "ClassifierTwoSample",
    "Estimate",
    "Likelihood",
    "NearestNeighbours",
    "accuracy",
    "brier",
    "calibration_error",
    "classifier_two_sample",
    "confusion_matrix",
    "effective_rank",
    "effective_sample_size",
    "energy_distance",
    "frechet_gaussian",
    "knn_accuracy",
    "linear_probe",
    "log_loss",
    "log_mean_exp",
    "mae",
    "mean_with_error",
    "mmd",
    "nearest_neighbours",
    "r2",
    "rmse",
    "sliced_wasserstein",
    "summary",
    "top_k",
    "wasserstein_exact",
]
