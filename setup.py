"Hands `settings.ini` to setuptools: requirements, extras, console scripts, Python version. Everything else stands in pyproject.toml."
from configparser import ConfigParser
from pathlib import Path
import re
from setuptools import find_namespace_packages, setup

here = Path(__file__).parent
settings = ConfigParser(delimiters=['='])
settings.read(here/'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
version = re.search(r"__version__ = ['\"](.+?)['\"]", (here/'fundus_nbdev/__init__.py').read_text(encoding='utf-8')).group(1)
extras = {key.removesuffix('_requirements'): value.split() for key, value in settings.items() if key.endswith('_requirements')}

setup(version=version,
      packages=find_namespace_packages(include=['fundus_nbdev', 'fundus_nbdev.*'], exclude=['*.__pycache__']), # folders of data too
      package_data={'fundus_nbdev.recipes': ['*.toml'], 'fundus_nbdev.samples': ['*'], '': ['*.jinja']},
      python_requires=f'>={settings["min_python"]}',
      install_requires=settings['requirements'].split(),
      extras_require=extras,
      entry_points={'console_scripts': settings['console_scripts'].strip().splitlines(), 'nbdev': ['fundus_nbdev=fundus_nbdev._modidx:d']})
