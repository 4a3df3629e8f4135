"""SPGAN's translator: generators, discriminators and SiaNet. The only folder that imports TensorFlow."""
