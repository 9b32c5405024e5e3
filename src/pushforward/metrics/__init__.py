"""Measures of how good samples, densities, predictions and codes are.

Lives here: functions of sample sets (distances, two-sample tests, tables, modes, copies), of log densities (means, bits,
bounds, calibration), of predictions (classes, numbers) and of codes (probes); extractors of features. All take arrays or
tensors and return numbers with standard errors.
Never here: models, data sets, training, files or plots.
"""

from pushforward.metrics._arrays import Estimate
from pushforward.metrics.calibration import Calibration, density_calibration, pit_calibration
from pushforward.metrics.classification import accuracy, brier, calibration_error, confusion_matrix, log_loss, top_k
from pushforward.metrics.distances import energy_distance, frechet_gaussian, kid, mmd, sliced_wasserstein, wasserstein_exact
from pushforward.metrics.features import Extractor, of_callable, of_module, random_convolutions, raw
from pushforward.metrics.frechet import FrechetDistance, Provenance, frechet_distance, frechet_of_features
from pushforward.metrics.friedman_rafsky import FriedmanRafsky, friedman_rafsky
from pushforward.metrics.likelihood import Likelihood, effective_sample_size, log_mean_exp, mean_with_error, summary
from pushforward.metrics.memorisation import ClosestRecord, NearestNeighbours, closest_record, nearest_neighbours
from pushforward.metrics.modes import ModeCoverage, mode_coverage
from pushforward.metrics.neighbourhoods import Neighbourhoods, neighbourhoods
from pushforward.metrics.probes import effective_rank, knn_accuracy, linear_probe
from pushforward.metrics.regression import mae, r2, rmse
from pushforward.metrics.tables import TableScores, column_shapes, pair_trends
from pushforward.metrics.transport import Transport, sinkhorn, sinkhorn_divergence
from pushforward.metrics.two_sample import ClassifierTwoSample, classifier_two_sample, columns_two_sample

__all__ = [
    "Calibration",
    "ClassifierTwoSample",
    "ClosestRecord",
    "Estimate",
    "Extractor",
    "FrechetDistance",
    "FriedmanRafsky",
    "Likelihood",
    "ModeCoverage",
    "NearestNeighbours",
    "Neighbourhoods",
    "Provenance",
    "TableScores",
    "Transport",
    "accuracy",
    "brier",
    "calibration_error",
    "classifier_two_sample",
    "closest_record",
    "column_shapes",
    "columns_two_sample",
    "confusion_matrix",
    "density_calibration",
    "effective_rank",
    "effective_sample_size",
    "energy_distance",
    "frechet_distance",
    "frechet_gaussian",
    "frechet_of_features",
    "friedman_rafsky",
    "kid",
    "knn_accuracy",
    "linear_probe",
    "log_loss",
    "log_mean_exp",
    "mae",
    "mean_with_error",
    "mmd",
    "mode_coverage",
    "nearest_neighbours",
    "neighbourhoods",
    "of_callable",
    "of_module",
    "pair_trends",
    "pit_calibration",
    "r2",
    "random_convolutions",
    "raw",
    "rmse",
    "sinkhorn",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "summary",
    "top_k",
    "wasserstein_exact",
]
