// SPDX-License-Identifier: Apache-2.0

package place

import (
	"hash/maphash"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
)

// facts is a Bloom filter over what is true of some pod of a node: who controls it, and each of its labels. A decision
// about a thousand nodes asks each of them for pods that only a few have; one bit tells most of them apart without reading
// thirty pods' labels. It may say yes wrongly, never no.
type facts [1024 / 64]uint64

// fact is the number of a bit.
type fact uint16

var seed = maphash.MakeSeed()

func factOf(parts ...string) fact {
	var hash maphash.Hash
	hash.SetSeed(seed)
	for _, part := range parts {
		_, _ = hash.WriteString(part) // a hash takes every string
		_ = hash.WriteByte(0)
	}
	return fact(hash.Sum64() % (uint64(len(facts{})) * 64))
}

func ownerFact(uid types.UID) fact { return factOf("owner", string(uid)) }

func labelFact(namespace, key, value string) fact { return factOf("label", namespace, key, value) }

// factsOf lists what is true of one pod.
func factsOf(pod *corev1.Pod, owner types.UID) []fact {
	out := make([]fact, 0, len(pod.Labels)+1)
	if owner != "" {
		out = append(out, ownerFact(owner))
	}
	for key, value := range pod.Labels {
		out = append(out, labelFact(pod.Namespace, key, value))
	}
	return out
}

// needs lists what must be true of a pod that the selector matches in a namespace, as far as it names exact values.
func needs(selector labels.Selector, namespace string) []fact {
	requirements, _ := selector.Requirements()
	var out []fact
	for _, r := range requirements {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			if values := r.ValuesUnsorted(); len(values) == 1 {
				out = append(out, labelFact(namespace, r.Key(), values[0]))
			}
		}
	}
	return out
}

func (f *facts) add(all []fact) {
	for _, one := range all {
		f[one/64] |= 1 << (one % 64)
	}
}

// may reports whether some pod could have all these facts.
func (f *facts) may(all []fact) bool {
	for _, one := range all {
		if f[one/64]&(1<<(one%64)) == 0 {
			return false
		}
	}
	return true
}
