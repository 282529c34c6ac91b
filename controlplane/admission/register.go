// SPDX-License-Identifier: Apache-2.0

package admission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
)

// Names of the plugins, in the order in which they run. They are those by which Kubernetes documents the same rules, where it has
// them.
const (
	ServiceAccount           = "ServiceAccount"
	TaintNodesByCondition    = "TaintNodesByCondition"
	Priority                 = "Priority"
	DefaultTolerationSeconds = "DefaultTolerationSeconds"
	PolicyEnforcement        = "PolicyEnforcement"
)

// Order lists the plugins in the order in which they run.
func Order() []string {
	return []string{ServiceAccount, TaintNodesByCondition, Priority, DefaultTolerationSeconds, PolicyEnforcement}
}

// Needs tells which resource must be served for a plugin to work; the plugins that are not listed need none.
func Needs() map[string]schema.GroupResource {
	return map[string]schema.GroupResource{
		ServiceAccount: {Resource: "serviceaccounts"},
		Priority:       {Group: "scheduling.k8s.io", Resource: "priorityclasses"},
	}
}

// Register adds the plugins to those that the server can run.
func Register(plugins *admission.Plugins) {
	plugins.Register(ServiceAccount, func(io.Reader) (admission.Interface, error) {
		return &accounts{Handler: admission.NewHandler(admission.Create)}, nil
	})
	plugins.Register(TaintNodesByCondition, func(io.Reader) (admission.Interface, error) {
		return newRule(schema.GroupResource{Resource: "nodes"}, shieldNode, admission.Create), nil
	})
	plugins.Register(Priority, func(io.Reader) (admission.Interface, error) {
		return &priorities{Handler: admission.NewHandler(admission.Create)}, nil
	})
	plugins.Register(DefaultTolerationSeconds, func(io.Reader) (admission.Interface, error) {
		return newRule(podResource, tolerateOutage, admission.Create, admission.Update), nil
	})
	plugins.Register(PolicyEnforcement, func(io.Reader) (admission.Interface, error) {
		return &enforcements{Handler: admission.NewHandler(admission.Create, admission.Update)}, nil
	})
}

// enforcements checks the annotation that turns a policy into one that only counts. It is a plugin of the server rather than a
// policy in the API, which users could delete.
type enforcements struct{ *admission.Handler }

var _ admission.ValidationInterface = (*enforcements)(nil)

// policies are the resources that agents enforce; the second is a custom one, which no strategy of ours sees.
var policies = []schema.GroupResource{
	{Group: "networking.k8s.io", Resource: "networkpolicies"},
	{Group: "policy.networking.k8s.io", Resource: "clusternetworkpolicies"},
}

func (p *enforcements) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !slices.Contains(policies, a.GetResource().GroupResource()) || a.GetSubresource() != "" {
		return nil
	}
	obj, err := meta.Accessor(a.GetObject())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	var before map[string]string
	if a.GetOperation() == admission.Update {
		old, err := meta.Accessor(a.GetOldObject())
		if err != nil {
			return apierrors.NewInternalError(err)
		}
		before = old.GetAnnotations()
	}
	if errs := checkEnforcement(obj.GetAnnotations(), before); len(errs) > 0 {
		return apierrors.NewInvalid(a.GetKind().GroupKind(), obj.GetName(), errs)
	}
	return nil
}

var podResource = schema.GroupResource{Resource: "pods"}

// rule applies a change that needs nothing but the object.
type rule[T any] struct {
	*admission.Handler
	resource schema.GroupResource
	change   func(T)
}

func newRule[T any](resource schema.GroupResource, change func(T), operations ...admission.Operation) *rule[T] {
	return &rule[T]{Handler: admission.NewHandler(operations...), resource: resource, change: change}
}

func (r *rule[T]) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != r.resource || a.GetSubresource() != "" {
		return nil
	}
	if obj, ok := a.GetObject().(T); ok {
		r.change(obj)
	}
	return nil
}

// newPod returns the pod of an attributes record that creates one.
func newPod(a admission.Attributes) (*corev1.Pod, bool) {
	if a.GetResource().GroupResource() != podResource || a.GetSubresource() != "" {
		return nil, false
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	return pod, ok
}

// accounts gives new pods their ServiceAccount.
type accounts struct {
	*admission.Handler
	client kubernetes.Interface
	lister corelisters.ServiceAccountLister
}

var (
	_ admission.MutationInterface                  = (*accounts)(nil)
	_ initializer.WantsExternalKubeClientSet       = (*accounts)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*accounts)(nil)
)

func (p *accounts) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

func (p *accounts) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	p.lister = f.Core().V1().ServiceAccounts().Lister()
	p.SetReadyFunc(f.Core().V1().ServiceAccounts().Informer().HasSynced)
}

func (p *accounts) ValidateInitialization() error {
	if p.client == nil || p.lister == nil {
		return errors.New("the ServiceAccount plugin was not initialized")
	}
	return nil
}

func (p *accounts) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	name := accountName(pod)
	account, err := p.find(ctx, a.GetNamespace(), name)
	if apierrors.IsNotFound(err) {
		return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), name, err))
	}
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("look up service account %s/%s: %w", a.GetNamespace(), name, err))
	}
	useAccount(pod, account, rand.String(5))
	return nil
}

const (
	// accountWait is how long the pod of a namespace that was just made waits for its default account.
	accountWait  = time.Second
	accountRetry = 50 * time.Millisecond
)

// find looks in the cache, then in the store, and gives the controller that makes default accounts a moment.
func (p *accounts) find(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if account, err := p.lister.ServiceAccounts(namespace).Get(name); err == nil {
		return account, nil
	}
	ctx, cancel := context.WithTimeout(ctx, accountWait)
	defer cancel()
	for {
		account, err := p.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) || name != defaultAccount {
			return account, err
		}
		select {
		case <-time.After(accountRetry):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// priorities resolves the priority class of new pods.
type priorities struct {
	*admission.Handler
	lister schedulinglisters.PriorityClassLister
}

var (
	_ admission.MutationInterface                  = (*priorities)(nil)
	_ initializer.WantsExternalKubeInformerFactory = (*priorities)(nil)
)

func (p *priorities) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	p.lister = f.Scheduling().V1().PriorityClasses().Lister()
	p.SetReadyFunc(f.Scheduling().V1().PriorityClasses().Informer().HasSynced)
}

func (p *priorities) ValidateInitialization() error {
	if p.lister == nil {
		return errors.New("the Priority plugin was not initialized")
	}
	return nil
}

func (p *priorities) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, ok := newPod(a)
	if !ok {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, errors.New("not yet ready to handle request"))
	}
	classes, err := p.lister.List(labels.Everything())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	if err := prioritize(pod, classes); err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}
