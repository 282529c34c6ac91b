// SPDX-License-Identifier: Apache-2.0

package deployment

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
)

const (
	revisionKey = "deployment.kubernetes.io/revision"
	historyKey  = "deployment.kubernetes.io/revision-history"
	hashLabel   = appsv1.DefaultDeploymentUniqueLabelKey
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// ours are annotations that each set has for itself; all others are taken over from the Deployment.
var ours = map[string]bool{
	corev1.LastAppliedConfigAnnotation:        true,
	revisionKey:                               true,
	historyKey:                                true,
	desiredKey:                                true,
	maximumKey:                                true,
	appsv1.DeprecatedRollbackTo:               true,
	"deployment.kubernetes.io/rollback-to":    true,
	"deployment.kubernetes.io/desired-images": true,
}

// look finds the current set, and sorts the others by age.
func look(s snapshot) view {
	v := view{snapshot: s}
	sorted := slices.Clone(s.sets)
	slices.SortFunc(sorted, byAge)
	for _, set := range sorted {
		// With several equal ones, which a lost creation response can leave behind, the oldest is the one.
		if v.current == nil && sameTemplate(&set.Spec.Template, &s.deployment.Spec.Template) {
			v.current = set
			continue
		}
		v.old = append(v.old, set)
	}
	return v
}

func byAge(a, b *appsv1.ReplicaSet) int {
	if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
		return c
	}
	return cmp.Compare(a.Name, b.Name)
}

// sameTemplate compares templates but for the label that we add.
func sameTemplate(set, template *corev1.PodTemplateSpec) bool {
	a, b := set.DeepCopy(), template.DeepCopy()
	delete(a.Labels, hashLabel)
	delete(b.Labels, hashLabel)
	return apiequality.Semantic.DeepEqual(a, b)
}

// revision reads a set's revision; 0 when it has none.
func revision(set *appsv1.ReplicaSet) int64 {
	n, _ := strconv.ParseInt(set.Annotations[revisionKey], 10, 64)
	return n
}

// nextRevision is one more than that of any old set.
func (v view) nextRevision() int64 {
	var highest int64
	for _, set := range v.old {
		highest = max(highest, revision(set))
	}
	return highest + 1
}

// revise makes the current set carry the newest revision and the Deployment's annotations. That is all a roll-back is:
// the template of an old set became the Deployment's again, so that set is current and gets the next number.
func (v view) revise() plan {
	if v.current == nil {
		return plan{}
	}
	c := v.current.DeepCopy()
	changed := v.annotateCurrent(c)
	if v.annotateSize(c) {
		changed = true
	}
	if c.Spec.MinReadySeconds != v.deployment.Spec.MinReadySeconds {
		c.Spec.MinReadySeconds = v.deployment.Spec.MinReadySeconds
		changed = true
	}
	p := plan{revision: c.Annotations[revisionKey]}
	if changed {
		p.update = []change{{old: v.current, set: c}}
	}
	return p
}

// annotateCurrent reports whether it changed anything.
func (v view) annotateCurrent(set *appsv1.ReplicaSet) bool {
	changed := false
	for key, value := range v.deployment.Annotations {
		if !ours[key] && annotate(set, key, value) {
			changed = true
		}
	}
	was, is := revision(set), v.nextRevision()
	if was >= is {
		return changed
	}
	if was > 0 {
		annotate(set, historyKey, strings.TrimPrefix(set.Annotations[historyKey]+","+strconv.FormatInt(was, 10), ","))
	}
	annotate(set, revisionKey, strconv.FormatInt(is, 10))
	return true
}

// newSet makes the ReplicaSet of the present template.
func (v view) newSet(size int32) *appsv1.ReplicaSet {
	d := v.deployment
	hash := templateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, hash)
	set := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       d.Namespace,
			Name:            d.Name + "-" + hash,
			Labels:          template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, kind)},
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        &size,
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        template,
		},
	}
	v.annotateCurrent(set)
	v.annotateSize(set)
	return set
}

func with(labels map[string]string, hash string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[hashLabel] = hash
	return out
}

// templateHash names a template. It need not be stable between versions of skep: sets are found by comparing templates,
// and the name only has to be free. A collision count moves on when it is not.
func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	hash := fnv.New32a()
	text, err := json.Marshal(t)
	if err != nil {
		panic(fmt.Sprintf("encode a pod template: %v", err)) // API types always encode
	}
	_, _ = hash.Write(text) // a hash takes every byte
	if collisions != nil {
		_, _ = fmt.Fprintf(hash, "#%d", *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(hash.Sum32()), 10))
}

// beyondHistory lists the oldest revisions above the limit; only sets that are empty and settled may go.
func (v view) beyondHistory() []*appsv1.ReplicaSet {
	limit := v.deployment.Spec.RevisionHistoryLimit
	if limit == nil {
		return nil
	}
	var empty []*appsv1.ReplicaSet
	for _, set := range v.old {
		if set.DeletionTimestamp == nil {
			empty = append(empty, set)
		}
	}
	excess := len(empty) - int(*limit)
	if excess <= 0 {
		return nil
	}
	slices.SortStableFunc(empty, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revision(a), revision(b)) })
	var out []*appsv1.ReplicaSet
	for _, set := range empty[:excess] {
		if replicas(set) == 0 && set.Status.Replicas == 0 && set.Generation <= set.Status.ObservedGeneration {
			out = append(out, set)
		}
	}
	return out
}
