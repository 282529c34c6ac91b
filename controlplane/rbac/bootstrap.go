// SPDX-License-Identifier: Apache-2.0

package rbac

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// Bootstrap makes the standard ClusterRoles and their bindings exist and hold at least what they should. It adds what is
// missing, never takes away what an administrator added, and leaves alone what he annotated with
// rbac.authorization.kubernetes.io/autoupdate: "false". It may run at every start, on several servers at once.
func Bootstrap(ctx context.Context, client kubernetes.Interface) error {
	var faults []error
	for _, role := range ClusterRoles() {
		options := reconciliation.ReconcileRoleOptions{
			Role:    reconciliation.ClusterRoleRuleOwner{ClusterRole: role},
			Client:  reconciliation.ClusterRoleModifier{Client: client.RbacV1().ClusterRoles()},
			Confirm: true,
		}
		err := persist(ctx, func() error { _, err := options.Run(); return err })
		if err != nil {
			faults = append(faults, fmt.Errorf("reconcile ClusterRole %s: %w", role.Name, err))
		}
	}
	for _, binding := range ClusterRoleBindings() {
		options := reconciliation.ReconcileRoleBindingOptions{
			RoleBinding: reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: binding},
			Client:      reconciliation.ClusterRoleBindingClientAdapter{Client: client.RbacV1().ClusterRoleBindings()},
			Confirm:     true,
		}
		err := persist(ctx, func() error { _, err := options.Run(); return err })
		if err != nil {
			faults = append(faults, fmt.Errorf("reconcile ClusterRoleBinding %s: %w", binding.Name, err))
		}
	}
	return errors.Join(faults...)
}

// persist repeats a write that another server was faster with.
func persist(ctx context.Context, write func() error) error {
	raced := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	return retry.OnError(retry.DefaultBackoff, raced, func() error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return write()
	})
}
