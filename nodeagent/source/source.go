// SPDX-License-Identifier: Apache-2.0

// Package source gives pods the ConfigMaps, Secrets and tokens that they refer to, and tells when one has changed.
//
// A node may read only what its pods refer to, one object at a time, so each object in use has a watch of its own.
package source

import (
	"context"
	"fmt"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Kind of an object that a pod can refer to.
type Kind string

// The kinds, by their resource names.
const (
	ConfigMap Kind = "configmaps"
	Secret    Kind = "secrets"
)

// Ref names one object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

// Objects reads objects through the API. It is safe for concurrent use.
type Objects struct {
	client kubernetes.Interface
	now    func() time.Time

	mu      sync.Mutex // guards all below; never held across a call to the API
	watches map[Ref]*watch
	tokens  map[tokenKey]Token
}

type watch struct {
	informer cache.SharedIndexInformer
	users    map[string]func()
	stop     chan struct{}
}

// New returns Objects on client.
func New(client kubernetes.Interface) *Objects {
	return &Objects{client: client, now: time.Now, watches: map[Ref]*watch{}, tokens: map[tokenKey]Token{}}
}

// ConfigMap returns a ConfigMap; the caller must not change it.
func (o *Objects) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	if obj, ok := o.cached(Ref{ConfigMap, namespace, name}).(*v1.ConfigMap); ok {
		return obj, nil
	}
	obj, err := o.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	return obj, missing(err, "configmap", name)
}

// Secret returns a Secret; the caller must not change it.
func (o *Objects) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	if obj, ok := o.cached(Ref{Secret, namespace, name}).(*v1.Secret); ok {
		return obj, nil
	}
	obj, err := o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	return obj, missing(err, "secret", name)
}

// missing says "not found" of a kind in the singular, as nodes say it: users know and search for that text.
func missing(err error, kind, name string) error {
	if apierrors.IsNotFound(err) {
		return apierrors.NewNotFound(schema.GroupResource{Resource: kind}, name)
	}
	return err
}

func (o *Objects) cached(ref Ref) any {
	o.mu.Lock()
	w := o.watches[ref]
	o.mu.Unlock()
	if w == nil || !w.informer.HasSynced() {
		return nil
	}
	obj, _, _ := w.informer.GetStore().GetByKey(ref.Namespace + "/" + ref.Name)
	return obj
}

// Watch calls changed whenever one of refs changes, until Unwatch(user). It replaces what user watched before.
func (o *Objects) Watch(user string, refs []Ref, changed func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	want := map[Ref]bool{}
	for _, ref := range refs {
		want[ref] = true
		w := o.watches[ref]
		if w == nil {
			w = o.start(ref)
			o.watches[ref] = w
		}
		w.users[user] = changed
	}
	o.drop(user, want)
}

// Unwatch ends what Watch began.
func (o *Objects) Unwatch(user string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop(user, nil)
	for key := range o.tokens {
		if key.podUID == user {
			delete(o.tokens, key)
		}
	}
}

// drop removes user from all watches but keep; the lock is held.
func (o *Objects) drop(user string, keep map[Ref]bool) {
	for ref, w := range o.watches {
		if keep[ref] {
			continue
		}
		delete(w.users, user)
		if len(w.users) == 0 {
			close(w.stop)
			delete(o.watches, ref)
		}
	}
}

func (o *Objects) start(ref Ref) *watch {
	one := func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", ref.Name).String()
	}
	w := &watch{users: map[string]func(){}, stop: make(chan struct{})}
	if ref.Kind == Secret {
		w.informer = coreinformers.NewFilteredSecretInformer(o.client, ref.Namespace, 0, cache.Indexers{}, one)
	} else {
		w.informer = coreinformers.NewFilteredConfigMapInformer(o.client, ref.Namespace, 0, cache.Indexers{}, one)
	}
	notify := func() {
		o.mu.Lock()
		calls := make([]func(), 0, len(w.users))
		for _, f := range w.users {
			calls = append(calls, f)
		}
		o.mu.Unlock()
		for _, f := range calls {
			f()
		}
	}
	// Adding a handler to an informer that has not started cannot fail.
	_, _ = w.informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial {
				notify()
			}
		},
		UpdateFunc: func(_, _ any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	go w.informer.Run(w.stop)
	return w
}

// Token is a service account token bound to a pod.
type Token struct {
	Token string
	// Refresh is when a new one should be fetched, well before this one expires.
	Refresh time.Time
	Expires time.Time
}

type tokenKey struct {
	podUID, account, audience string
	seconds                   int64
}

// Token returns a token for the pod's service account, from memory while it is fresh.
func (o *Objects) Token(ctx context.Context, pod *v1.Pod, audience string, seconds int64) (Token, error) {
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	key := tokenKey{string(pod.UID), account, audience, seconds}
	now := o.now()
	o.mu.Lock()
	have, ok := o.tokens[key]
	o.mu.Unlock()
	if ok && now.Before(have.Refresh) {
		return have, nil
	}
	req := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		req.Spec.Audiences = []string{audience}
	}
	resp, err := o.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, account, req, metav1.CreateOptions{})
	if err != nil {
		if ok && now.Before(have.Expires) {
			// The API may be away for a while; a token that is still good is better than none.
			have.Refresh = now.Add(time.Minute)
			return have, nil
		}
		return Token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	expires := resp.Status.ExpirationTimestamp.Time
	t := Token{Token: resp.Status.Token, Expires: expires, Refresh: refreshAt(now, expires)}
	o.mu.Lock()
	o.tokens[key] = t
	o.mu.Unlock()
	return t, nil
}

// refreshAt is after four fifths of a token's life, or a day, whichever comes first.
func refreshAt(now, expires time.Time) time.Time {
	life := expires.Sub(now)
	return now.Add(min(life*4/5, 24*time.Hour))
}
