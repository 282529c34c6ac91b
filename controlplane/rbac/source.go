// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"errors"
	"fmt"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	listers "k8s.io/client-go/listers/rbac/v1"
)

// Source gives the roles and bindings that are in force. Its methods read a cache; what they return must not be changed.
type Source interface {
	Role(namespace, name string) (*rbacv1.Role, error)
	RoleBindings(namespace string) ([]*rbacv1.RoleBinding, error)
	ClusterRole(name string) (*rbacv1.ClusterRole, error)
	ClusterRoles() ([]*rbacv1.ClusterRole, error)
	ClusterRoleBindings() ([]*rbacv1.ClusterRoleBinding, error)
}

type informed struct {
	roles               listers.RoleLister
	roleBindings        listers.RoleBindingLister
	clusterRoles        listers.ClusterRoleLister
	clusterRoleBindings listers.ClusterRoleBindingLister
}

// FromInformers reads the informers of a factory, which the caller starts. Until they are filled nobody is allowed anything.
func FromInformers(factory informers.SharedInformerFactory) Source {
	rbac := factory.Rbac().V1()
	return informed{
		roles:               rbac.Roles().Lister(),
		roleBindings:        rbac.RoleBindings().Lister(),
		clusterRoles:        rbac.ClusterRoles().Lister(),
		clusterRoleBindings: rbac.ClusterRoleBindings().Lister(),
	}
}

func (i informed) Role(namespace, name string) (*rbacv1.Role, error) {
	return i.roles.Roles(namespace).Get(name)
}

func (i informed) RoleBindings(namespace string) ([]*rbacv1.RoleBinding, error) {
	return i.roleBindings.RoleBindings(namespace).List(labels.Everything())
}

func (i informed) ClusterRole(name string) (*rbacv1.ClusterRole, error) {
	return i.clusterRoles.Get(name)
}

func (i informed) ClusterRoles() ([]*rbacv1.ClusterRole, error) {
	return i.clusterRoles.List(labels.Everything())
}

func (i informed) ClusterRoleBindings() ([]*rbacv1.ClusterRoleBinding, error) {
	return i.clusterRoleBindings.List(labels.Everything())
}

// Late is a Source that is known only after the authorizer is made, because the server that it guards also serves the
// informers. Its zero value is ready to use and fails until Set.
type Late struct{ source atomic.Pointer[Source] }

// Set makes s the source from now on.
func (l *Late) Set(s Source) { l.source.Store(&s) }

var errNotReady = errors.New("roles and bindings are not loaded yet")

func from[T any](l *Late, read func(Source) (T, error)) (T, error) {
	s := l.source.Load()
	if s == nil {
		var none T
		return none, errNotReady
	}
	return read(*s)
}

// Role implements Source.
func (l *Late) Role(namespace, name string) (*rbacv1.Role, error) {
	return from(l, func(s Source) (*rbacv1.Role, error) { return s.Role(namespace, name) })
}

// RoleBindings implements Source.
func (l *Late) RoleBindings(namespace string) ([]*rbacv1.RoleBinding, error) {
	return from(l, func(s Source) ([]*rbacv1.RoleBinding, error) { return s.RoleBindings(namespace) })
}

// ClusterRole implements Source.
func (l *Late) ClusterRole(name string) (*rbacv1.ClusterRole, error) {
	return from(l, func(s Source) (*rbacv1.ClusterRole, error) { return s.ClusterRole(name) })
}

// ClusterRoles implements Source.
func (l *Late) ClusterRoles() ([]*rbacv1.ClusterRole, error) {
	return from(l, Source.ClusterRoles)
}

// ClusterRoleBindings implements Source.
func (l *Late) ClusterRoleBindings() ([]*rbacv1.ClusterRoleBinding, error) {
	return from(l, Source.ClusterRoleBindings)
}

// ruleError says which reference could not be followed. A binding to a role that does not exist is no fault: it grants
// nothing until the role is there.
func ruleError(ref rbacv1.RoleRef, err error) error {
	return fmt.Errorf("%s %q: %w", ref.Kind, ref.Name, err)
}
