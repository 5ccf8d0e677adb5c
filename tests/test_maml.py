import pytest, torch
from oracles import *
from small_models import *
from quickstudy.learners.maml import MAML


@pytest.mark.parametrize("kind", NETWORKS)
def test_a(kind):
    m = network(kind)
    e = pictures()
    l = MAML(m, lr=0.4, steps=5)
    o = oracle(m, e, one_rate(weights_of(m), 0.4), 5)
    print(
        l(e) - o.loss,
        distance(gradients_of(l(e), m), gradients_of(o.loss, m)),
        (l.predict(e.support, e.query_x) - o.outputs).abs().max(),
    )
    l = MAML(m, lr=0.4, steps=5, first_order=True)
    o = oracle_first_order(m, e, one_rate(weights_of(m), 0.4), 5)[0]
    print(distance(gradients_of(l(e), m), o))
