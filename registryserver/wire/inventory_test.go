package wire_test

import (
	"testing"

	"github.com/chartroom-dev/chartroom/registryserver/wire"
)

func TestBehind(t *testing.T) {
	type clock = map[string]uint64
	for name, c := range map[string]struct {
		one, other             clock
		oneBehind, otherBehind bool
	}{
		"the same":                              {clock{"a": 3, "b": 1}, clock{"a": 3, "b": 1}, false, false},
		"nothing known of any":                  {nil, nil, false, false},
		"older in one":                          {clock{"a": 2, "b": 1}, clock{"a": 3, "b": 1}, true, false},
		"older in both":                         {clock{"a": 2, "b": 1}, clock{"a": 3, "b": 2}, true, false},
		"each has what the other lacks":         {clock{"a": 2, "b": 2}, clock{"a": 3, "b": 1}, false, false},
		"a pod that only one knows":             {clock{"a": 3}, clock{"a": 3, "b": 0}, false, false},
		"older, and knows one more":             {clock{"a": 2, "b": 1}, clock{"a": 3}, false, false},
		"older, and knows one that did nothing": {clock{"a": 2, "b": 0}, clock{"a": 3}, true, false},
		"older, and knows one less":             {clock{"a": 2}, clock{"a": 3, "b": 1}, true, false},
		"no pod that both know":                 {clock{"a": 2}, clock{"b": 3}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			one, other := wire.Inventory{Clock: c.one}, wire.Inventory{Clock: c.other}
			if one.Behind(other) != c.oneBehind || other.Behind(one) != c.otherBehind {
				t.Errorf("%v is behind %v: %t, and the other way round %t", c.one, c.other, one.Behind(other), other.Behind(one))
			}
		})
	}
}
