// SPDX-License-Identifier: Apache-2.0

// Package kinds describes the built-in resources of the API as data: one Kind per resource, written in
// one small file per kind below this folder and served by generic code in controlplane/apiserver.
package kinds

import (
	"context"

	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is what every built-in kind is.
type Object interface {
	runtime.Object
	metav1.Object
}

// Kind is one resource of the API. Make it with Define, which keeps the functions typed.
type Kind struct {
	// GroupVersionKind is served and stored; there is no second version unless Conversions says so.
	GroupVersionKind schema.GroupVersionKind
	Resource         string // plural, lower case
	Singular         string
	ShortNames       []string
	Categories       []string
	Namespaced       bool
	// StoragePrefix is the folder below /registry; empty means Resource. The historical exceptions
	// (minions, services/specs, services/endpoints, controllers) are kept for tools that read etcd.
	StoragePrefix string
	// HasStatus serves /status: writes to the main resource keep the stored status and the reverse.
	HasStatus bool
	// NoGeneration leaves metadata.generation alone (kinds without a spec).
	NoGeneration bool
	// AllowCreateOnUpdate lets PUT create the object (Leases, Endpoints, and other kinds of record).
	AllowCreateOnUpdate bool
	// RequireResourceVersion refuses an update without a resourceVersion.
	RequireResourceVersion bool

	New     func() Object
	NewList func() runtime.Object

	// View is set for a kind that shows the objects of another one; nil for every kind with a store of its own.
	View *View

	// ValidateName checks metadata.name (and generateName with prefix = true).
	ValidateName validation.ValidateNameFunc

	// Default fills absent fields. It runs on every decode, also from storage, so it is pure and idempotent.
	Default func(Object)
	// PrepareForCreate and PrepareForUpdate drop what a client may not set; status and generation are
	// looked after by the generic code.
	PrepareForCreate func(context.Context, Object)
	PrepareForUpdate func(ctx context.Context, obj, old Object)
	// PrepareForStatusUpdate runs on a write to /status, after the generic code restored everything but the status.
	PrepareForStatusUpdate func(ctx context.Context, obj, old Object)
	// Validate checks everything but ObjectMeta, which the generic code checks.
	Validate func(Object) field.ErrorList
	// ValidateUpdate checks an update as a whole; nil means Validate(obj).
	ValidateUpdate func(obj, old Object) field.ErrorList
	// ValidateStatusUpdate checks a write to /status.
	ValidateStatusUpdate func(obj, old Object) field.ErrorList
	// Warnings are sent to the client as Warning headers.
	Warnings func(Object) []string

	// Columns and Row make the Table that kubectl prints. Row returns a cell for each column.
	Columns []metav1.TableColumnDefinition
	Row     func(Object) []any
	// Fields are the selectable fields besides metadata.name and metadata.namespace.
	Fields func(Object) fields.Set
	// FieldNames lists the keys that Fields may return, so that a selector on another one is refused.
	FieldNames []string
	// IndexedField is a key of Fields that the watch cache indexes, such as spec.nodeName.
	IndexedField string

	// Scale serves /scale.
	Scale *Scale
	// GracefulDelete reports whether deletion waits for the owner of the object's processes to confirm, and
	// fills in the grace period. Nil deletes at once.
	GracefulDelete func(ctx context.Context, obj Object, options *metav1.DeleteOptions) bool
}

// View makes a kind a second face of a stored one, as events.k8s.io/v1 is of core Events.
//
// Kind.New and Kind.NewList make the stored type, which is also the internal type of the view's group;
// clients of the view read and write the wire types.
type View struct {
	// Of is the kind whose store, and whose encoding in it, the view shares.
	Of schema.GroupVersionKind
	// New and NewList make the wire types.
	New     func() Object
	NewList func() runtime.Object
	// AddConversions registers the conversions between wire and stored types, both ways, lists included.
	AddConversions func(*runtime.Scheme) error
}

// Scale reads and writes the parts of an object that make an autoscaling/v1 Scale.
type Scale struct {
	Replicas       func(Object) int32
	SetReplicas    func(Object, int32)
	StatusReplicas func(Object) int32
	// Selector returns the label selector in its string form.
	Selector func(Object) string
}

// Def is a Kind with typed functions. PT is a pointer to the API type.
type Def[PT Object] struct {
	GroupVersion           schema.GroupVersion
	Kind                   string
	Resource               string
	Singular               string // empty: lower-case Kind
	ShortNames             []string
	Categories             []string
	ClusterScoped          bool
	StoragePrefix          string
	HasStatus              bool
	NoGeneration           bool
	AllowCreateOnUpdate    bool
	RequireResourceVersion bool
	ValidateName           validation.ValidateNameFunc // nil: DNS-1123 subdomain
	Default                func(PT)
	PrepareForCreate       func(context.Context, PT)
	PrepareForUpdate       func(ctx context.Context, obj, old PT)
	PrepareForStatusUpdate func(ctx context.Context, obj, old PT)
	Validate               func(PT) field.ErrorList
	ValidateUpdate         func(obj, old PT) field.ErrorList
	ValidateStatusUpdate   func(obj, old PT) field.ErrorList
	Warnings               func(PT) []string
	Columns                []metav1.TableColumnDefinition
	Row                    func(PT) []any
	Fields                 func(PT) fields.Set
	FieldNames             []string
	IndexedField           string
	Replicas               func(PT) *int32 // with StatusReplicas and Selector: serves /scale
	StatusReplicas         func(PT) int32
	Selector               func(PT) *metav1.LabelSelector
	GracefulDelete         func(context.Context, PT, *metav1.DeleteOptions) bool
	View                   *View
}
