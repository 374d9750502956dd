"Is this photograph of the retina good enough to diagnose from? Experiments in image classification on fastai."
__version__ = '0.1.0'
