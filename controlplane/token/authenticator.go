// SPDX-License-Identifier: Apache-2.0

package token

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Objects reads what tokens are bound to, fresh enough that a deleted object is noticed soon.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// deletionLeeway lets a pod that is being deleted finish its work with its token.
const deletionLeeway = time.Minute

// Authenticator accepts the issuer's tokens while what they are bound to exists.
type Authenticator struct {
	issuer    *Issuer
	objects   Objects
	audiences authenticator.Audiences
}

var _ authenticator.Token = (*Authenticator)(nil)

// NewAuthenticator returns an authenticator for requests to the given audiences.
func NewAuthenticator(issuer *Issuer, objects Objects, audiences authenticator.Audiences) *Authenticator {
	return &Authenticator{issuer: issuer, objects: objects, audiences: audiences}
}

// AuthenticateToken has no opinion on tokens of others; one of ours that is bad in any way is an error.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	c, err := a.issuer.parse(token)
	if errors.Is(err, errForeign) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = a.audiences
	}
	audiences := authenticator.Audiences(c.Audience).Intersect(wanted)
	if len(audiences) == 0 && len(wanted) > 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", []string(c.Audience), []string(wanted))
	}
	if err := a.checkBinding(ctx, c); err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: userOf(c), Audiences: audiences}, true, nil
}

func userOf(c *claims) user.Info {
	b := c.Binding
	info := &serviceaccount.ServiceAccountInfo{
		Namespace: b.Namespace, Name: b.ServiceAccount.Name, UID: string(b.ServiceAccount.UID),
		CredentialID: "JTI=" + c.ID,
	}
	if b.Pod != nil {
		info.PodName, info.PodUID = b.Pod.Name, string(b.Pod.UID)
	}
	if b.Node != nil {
		info.NodeName, info.NodeUID = b.Node.Name, string(b.Node.UID)
	}
	return info.UserInfo()
}

// checkBinding looks every bound object up: the same name with another UID is another object.
func (a *Authenticator) checkBinding(ctx context.Context, c *claims) error {
	b := c.Binding
	if c.Subject != serviceaccount.MakeUsername(b.Namespace, b.ServiceAccount.Name) {
		return errors.New("token subject does not match its service account")
	}
	account, err := a.objects.ServiceAccount(ctx, b.Namespace, b.ServiceAccount.Name)
	if err := a.check("service account", b.ServiceAccount, account, err); err != nil {
		return err
	}
	if b.Secret != nil {
		secret, err := a.objects.Secret(ctx, b.Namespace, b.Secret.Name)
		if err := a.check("secret", *b.Secret, secret, err); err != nil {
			return err
		}
	}
	if b.Pod != nil {
		pod, err := a.objects.Pod(ctx, b.Namespace, b.Pod.Name)
		return a.check("pod", *b.Pod, pod, err)
	}
	if b.Node != nil {
		node, err := a.objects.Node(ctx, b.Node.Name)
		return a.check("node", *b.Node, node, err)
	}
	return nil
}

func (a *Authenticator) check(what string, want Ref, got metav1.Object, err error) error {
	if err != nil {
		return fmt.Errorf("look up the token's %s %s: %w", what, want.Name, err)
	}
	if got.GetUID() != want.UID {
		return fmt.Errorf("the token's %s %s is gone, another has its name", what, want.Name)
	}
	if at := got.GetDeletionTimestamp(); at != nil && a.issuer.now().After(at.Add(deletionLeeway)) {
		return fmt.Errorf("the token's %s %s has been deleted", what, want.Name)
	}
	return nil
}

// Audiences returns the audiences that a token without others gets, and that the API accepts.
func (i *Issuer) Audiences() authenticator.Audiences {
	return slices.Clone(authenticator.Audiences{i.url})
}
