// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"net/http"
	"path"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	upgrade "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/streaming/pkg/httpstream"
)

var nodes = schema.GroupResource{Resource: "nodes"}

var errUpgrade = errors.New("streams to containers go by the subresources of their pods")

// nodeProxy serves nodes/proxy: it hands a request on to the API of the node's agent, as the API server.
type nodeProxy struct{ nodes *nodeClient }

var _ rest.Connecter = (*nodeProxy)(nil)

// serveNodes adds the way to a node's agent.
func serveNodes(r *registrar, res *resource) error {
	client, err := r.nodeClient()
	if err != nil {
		return err
	}
	r.add(res, "proxy", &nodeProxy{client})
	return nil
}

// New says what options the subresource takes.
func (p *nodeProxy) New() runtime.Object { return &corev1.NodeProxyOptions{} }

// Destroy does nothing, the main resource owns the store.
func (p *nodeProxy) Destroy() {}

// ConnectMethods are those that have a verb in roles.
func (p *nodeProxy) ConnectMethods() []string {
	return []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead, http.MethodOptions}
}

func (p *nodeProxy) NewConnectOptions() (options runtime.Object, includesPath bool, pathParam string) {
	return &corev1.NodeProxyOptions{}, true, "path"
}

// Connect does not upgrade connections. A streaming request needs no more than the verb "get" here, and would give whoever may read
// from nodes a shell in every pod; pods/exec, pods/attach and pods/portforward are authorised pod by pod.
func (p *nodeProxy) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	// Below a root, so that no path leads out of it.
	target := path.Join("/", options.(*corev1.NodeProxyOptions).Path)
	location, err := p.nodes.location(ctx, name, target, nil)
	if err != nil {
		return nil, err
	}
	plain := upgrade.NewUpgradeAwareHandler(location, p.nodes.transport, false, false, upgrade.NewErrorResponder(responder))
	plain.RejectForwardingRedirects = true
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if httpstream.IsUpgradeRequest(r) {
			responder.Error(apierrors.NewForbidden(nodes, name, errUpgrade))
			return
		}
		plain.ServeHTTP(w, r)
	}), nil
}
