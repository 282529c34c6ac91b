// SPDX-License-Identifier: Apache-2.0

package intent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	policyv1alpha2 "sigs.k8s.io/network-policy-api/apis/v1alpha2"

	"skep.dev/skep/nodeagent/checkpoint"
	"skep.dev/skep/nodeagent/ledger"
)

// Bounds of what LastGood keeps. What is beyond them fails closed at the next start.
const (
	keptPolicies    = 1024
	keptPolicyBytes = 64 << 20
)

// LastGood keeps over restarts what is in force of the policies whose newest version is refused. The API has forgotten it, and from the
// maps nobody could tell. A policy is in it only while it is refused: its file goes before the datapath gets a newer version, so that a
// process that dies in between leaves none rather than one that is out of date.
//
// It belongs to one goroutine. A method that cannot do its work says why, and what it was about fails closed at the next start.
type LastGood struct {
	store *checkpoint.Store // nil keeps nothing
	// found is what the run before left and nobody has asked for yet.
	found map[types.UID]kept
	files map[types.UID]keptFile
	bytes int
}

// kept is what is in force of a policy that is refused. Without a policy nothing is, as no version was ever good.
type kept struct {
	UID           types.UID                            `json:"uid"`
	Fault         ledger.Fault                         `json:"fault"`
	Policy        *networkingv1.NetworkPolicy          `json:"networkPolicy,omitempty"`
	ClusterPolicy *policyv1alpha2.ClusterNetworkPolicy `json:"clusterNetworkPolicy,omitempty"`
}

// keptFile is what is known of a file.
type keptFile struct {
	good metav1.Object
	size int
}

// NewLastGood reads what the run before has left in dir. An error names files that are damaged, which are removed; the rest can be used.
func NewLastGood(dir string) (*LastGood, error) {
	store, err := checkpoint.New(dir)
	if err != nil {
		return forgetful(), err
	}
	keys, err := store.Keys()
	if err != nil {
		return forgetful(), err
	}
	l := forgetful()
	l.store = store
	var errs []error
	for _, key := range keys {
		if err := l.load(key); err != nil {
			errs = append(errs, err, store.Delete(key))
		}
	}
	return l, errors.Join(errs...)
}

// forgetful keeps nothing.
func forgetful() *LastGood {
	return &LastGood{found: map[types.UID]kept{}, files: map[types.UID]keptFile{}}
}

func (l *LastGood) load(key string) error {
	var data json.RawMessage
	if _, err := l.store.Load(key, &data); err != nil {
		return err
	}
	var k kept
	if err := json.Unmarshal(data, &k); err != nil {
		return fmt.Errorf("read checkpoint %s: %w", key, err)
	}
	if good := k.good(); keyOfGood(k.UID) != key || good != nil && good.GetUID() != k.UID {
		return fmt.Errorf("checkpoint %s is about another policy than its name", key)
	}
	l.found[k.UID] = k
	l.note(k.UID, keptFile{k.good(), len(data)})
	return nil
}

// keyOfGood names the file of a policy. Whoever writes to the store past the API chooses a UID as he likes.
func keyOfGood(uid types.UID) string {
	sum := sha256.Sum256([]byte(uid))
	return hex.EncodeToString(sum[:16])
}

func (k kept) good() metav1.Object {
	switch {
	case k.Policy != nil:
		return k.Policy
	case k.ClusterPolicy != nil:
		return k.ClusterPolicy
	}
	return nil
}

func (l *LastGood) note(uid types.UID, f keptFile) {
	l.bytes += f.size - l.files[uid].size
	l.files[uid] = f
}

// recall says what the run before had in force of a policy; false when that is not known. It says so once.
func (l *LastGood) recall(policy metav1.Object) (kept, bool) {
	k, ok := l.found[policy.GetUID()]
	delete(l.found, policy.GetUID())
	return k, ok
}

// keep writes down what is in force of a policy whose newest version is refused; good is nil when nothing is.
func (l *LastGood) keep(newest, good metav1.Object, f ledger.Fault) error {
	uid := newest.GetUID()
	if l.store == nil || good != nil && good.GetUID() != uid {
		return nil // a version of a policy that has gone stands for nothing
	}
	if file, there := l.files[uid]; there && file.good == good {
		return nil
	}
	k := kept{UID: uid, Fault: f}
	k.Policy, _ = good.(*networkingv1.NetworkPolicy)
	k.ClusterPolicy, _ = good.(*policyv1alpha2.ClusterNetworkPolicy)
	data, err := json.Marshal(k)
	if err != nil {
		return fmt.Errorf("encode the last good version: %w", err)
	}
	others := l.bytes - l.files[uid].size
	if _, there := l.files[uid]; !there && len(l.files) >= keptPolicies || others+len(data) > keptPolicyBytes {
		return errors.Join(fmt.Errorf("there are %d last good versions of %d bytes already", len(l.files), others), l.drop(uid))
	}
	if err := l.store.Save(keyOfGood(uid), json.RawMessage(data)); err != nil {
		return err
	}
	l.note(uid, keptFile{good, len(data)})
	return nil
}

// drop forgets a policy. Absence is not an error.
func (l *LastGood) drop(uid types.UID) error {
	file, there := l.files[uid]
	if !there {
		return nil
	}
	if err := l.store.Delete(keyOfGood(uid)); err != nil {
		return err
	}
	l.bytes -= file.size
	delete(l.files, uid)
	delete(l.found, uid)
	return nil
}

// dropUnclaimed forgets the policies that nobody has asked for: they have gone while no agent ran.
func (l *LastGood) dropUnclaimed() error {
	var errs []error
	for uid := range l.found {
		errs = append(errs, l.drop(uid))
	}
	return errors.Join(errs...)
}
