// SPDX-License-Identifier: Apache-2.0

package enforcement

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i)
	}
	for _, c := range []struct {
		q    float64
		of   []time.Duration
		want time.Duration
	}{
		{0.99, nil, 0}, {0.99, []time.Duration{7}, 7}, {0.5, []time.Duration{3, 1, 2}, 2}, {0.5, []time.Duration{4, 3, 1, 2}, 2},
		{0.99, hundred, 99}, {0.5, hundred, 50}, {1, hundred, 100}, {0, hundred, 1},
	} {
		if got := Quantile(c.q, c.of); got != c.want {
			t.Errorf("quantile %v of %d: %d, want %d", c.q, len(c.of), got, c.want)
		}
	}
}
