"""SPGAN's translator in TensorFlow 2: two generators, two discriminators and SiaNet. The only folder that
imports TensorFlow.
"""
