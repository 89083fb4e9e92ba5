"""Every radius, level and threshold of what is measured of a population's networks.

Fixed on 26 November 2026, before any network of a population was trained.
"""

DATE = "2026-11-26"

TRAIN_SAMPLES = 100  # measured, the same for every network on the same data
TEST_SAMPLES = 1_000  # of every test quantity, likewise

PGD_RADII = (0.25, 0.5, 1.0)  # L2, of images with pixels in [0, 1]
PGD_STEPS = 10
PGD_STEP = 2.5  # times the radius over the number of steps

NOISE_LEVELS = (0.1, 0.2, 0.4)  # standard deviation of Gaussian noise, before clipping to [0, 1]
BLUR = 1.0  # pixels, standard deviation of the Gaussian
CONTRAST = 0.4  # what is left of each pixel's distance from the image's mean
BRIGHTNESS = 0.3  # added to every pixel
SHOT_PHOTONS = 10.0  # Poisson counts of a white pixel
IMPULSE = 0.1  # share of the pixels that turn black or white
NOISE_SEED = 0  # the same noise for every network

CALIBRATION_BINS = 15  # of equal width

ADAPTIVE_RHO = 0.1  # noise relative to each parameter, as in the authors' code
ADAPTIVE_DRAWS = 20
HESSIAN_TOLERANCE = 1e-2  # of the residual, relative to the eigenvalue
