"""Recipes: one published experiment each, in full.

`RECIPES` maps the names used on the command line to the functions that state them.
"""

from collections.abc import Callable

from quickstudy.recipes import initialization, metric, natural, optimizer, own_pictures, plain, recognition
from quickstudy.recipes.experiment import Experiment

RECIPES: dict[str, Callable[..., Experiment]] = {
    "prototypical-glyphs": metric.prototypical_glyphs,
    "prototypical-omniglot-1shot": metric.prototypical_omniglot_1shot,
    "prototypical-omniglot-5shot": metric.prototypical_omniglot_5shot,
    "prototypical-images": own_pictures.prototypical_images,
    "matching-omniglot": metric.matching_omniglot,
    "relation-omniglot-1shot": metric.relation_omniglot_1shot,
    "relation-omniglot-5shot": metric.relation_omniglot_5shot,
    "siamese-omniglot": metric.siamese_omniglot,
    "siamese-omniglot-lake": metric.siamese_omniglot_lake,
    "r2d2-cifar-fs": metric.r2d2_cifar_fs,
    "gaussian-omniglot": metric.gaussian_omniglot,
    "tenth-omniglot": metric.tenth_omniglot,
    "soft-omniglot": metric.soft_omniglot,
    "soft-omniglot-distractors": metric.soft_omniglot_distractors,
    "cluster-omniglot-distractors": metric.cluster_omniglot_distractors,
    "masked-omniglot-distractors": metric.masked_omniglot_distractors,
    "prototypical-cifar-fs-1shot": natural.prototypical_cifar_fs_1shot,
    "prototypical-cifar-fs-5shot": natural.prototypical_cifar_fs_5shot,
    "relation-cifar-fs": natural.relation_cifar_fs,
    "plain-conv4-cifar-fs": plain.plain_conv4_cifar_fs,
    "plain-conv4-fc100": plain.plain_conv4_fc100,
    "plain-resnet12-cifar-fs": plain.plain_resnet12_cifar_fs,
    "plain-resnet12-fc100": plain.plain_resnet12_fc100,
    "maml-glyphs": initialization.maml_glyphs,
    "maml-images": own_pictures.maml_images,
    "maml-omniglot": initialization.maml_omniglot,
    "maml-omniglot-20way": initialization.maml_omniglot_20way,
    "fomaml-omniglot": initialization.fomaml_omniglot,
    "fomaml-omniglot-20way": initialization.fomaml_omniglot_20way,
    "anil-omniglot": initialization.anil_omniglot,
    "reptile-omniglot": initialization.reptile_omniglot,
    "reptile-omniglot-20way": initialization.reptile_omniglot_20way,
    "meta-sgd-omniglot": initialization.meta_sgd_omniglot,
    "meta-sgd-omniglot-20way": initialization.meta_sgd_omniglot_20way,
    "lstm-meta-learner-omniglot-1shot": optimizer.lstm_omniglot_1shot,
    "lstm-meta-learner-omniglot-5shot": optimizer.lstm_omniglot_5shot,
    "scalar-gates-omniglot-1shot": optimizer.scalar_gates_omniglot_1shot,
    "fixed-gates-omniglot-1shot": optimizer.fixed_gates_omniglot_1shot,
    "faces-orl": recognition.faces_orl,
    "faces-lfw": recognition.faces_lfw,
    "words-arabic": recognition.words_arabic,
    "speakers-arabic": recognition.speakers_arabic,
    "digits-fsdd": recognition.digits_fsdd,
    "siamese": recognition.siamese,
    "lstm-optimizer-quadratics": optimizer.lstm_quadratics,
    "lstm-optimizer-digits": optimizer.lstm_digits,
    "rnnprop-optimizer-digits": optimizer.rnnprop_digits,
    "mlp-optimizer-digits": optimizer.mlp_digits,
    "rnnprop-optimizer-held-out": optimizer.rnnprop_held_out,
    "rnnprop-optimizer-augmented": optimizer.rnnprop_augmented,
    "mlp-optimizer-augmented": optimizer.mlp_augmented,
    "lstm-optimizer-mnist": optimizer.lstm_mnist,
}
