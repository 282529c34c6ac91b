// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/remotecommand"
)

const viaNode = "/api/v1/nodes/agent/proxy"

func TestRequestsToNodes(t *testing.T) {
	startAgent(t, namespace(t))
	for _, c := range []struct {
		name, method, path string
		code               int
		want               string
	}{
		{"a path and a query", http.MethodGet, viaNode + "/echo/a/b?c=d", 200, `GET /echo/a/b?c=d ""`},
		{"another method", http.MethodPost, viaNode + "/echo", 200, `POST /echo? ""`},
		{"the node's own refusal", http.MethodGet, viaNode + "/nowhere", 404, "404 page not found\n"},
		{"a path that climbs", http.MethodGet, viaNode + "/x/../echo", 200, `GET /echo? ""`},
	} {
		if code, data := call(t, shared.config, c.method, c.path, nil, nil); code != c.code || string(data) != c.want {
			t.Errorf("%s: %d: %q, want %d: %q", c.name, code, data, c.code, c.want)
		}
	}
	if code, data := call(t, shared.config, http.MethodGet, "/api/v1/nodes/nobody/proxy/echo", nil, nil); code != http.StatusNotFound {
		t.Errorf("a node that is not there: %d: %s", code, data)
	}
}

func TestRequestsToNodesNeedTheirOwnPermission(t *testing.T) {
	ns := namespace(t)
	startAgent(t, ns)
	newAccount(t, ns, "reader")
	token, err := requestToken(t, ns, "reader", authenticationv1.TokenRequestSpec{})
	if err != nil {
		t.Fatal(err)
	}
	ask := func() int {
		code, _ := call(t, withToken(token), http.MethodGet, viaNode+"/echo", nil, nil)
		return code
	}
	grantOnNodes(t, ns, "nodes")
	eventually(t, "the account may read nodes", func() bool {
		code, _ := call(t, withToken(token), http.MethodGet, "/api/v1/nodes/agent", nil, nil)
		return code == http.StatusOK
	})
	if code := ask(); code != http.StatusForbidden {
		t.Errorf("who may read nodes gets through to them: %d", code)
	}
	grantOnNodes(t, ns, "nodes/proxy")
	eventually(t, "the account gets through", func() bool { return ask() == http.StatusOK })
	code, data := call(t, withToken(token), http.MethodGet, viaNode+"/echo", nil, nil)
	if want := `GET /echo? ""`; code != http.StatusOK || string(data) != want {
		t.Errorf("%d: %s, want %s: the node must not see the client's token", code, data, want)
	}
	if code, _ := call(t, withToken(token), http.MethodPost, viaNode+"/echo", nil, nil); code != http.StatusForbidden {
		t.Errorf("get is enough to post: %d", code)
	}
}

// grantOnNodes lets the account "reader" get one resource.
func grantOnNodes(t *testing.T, ns, resource string) {
	t.Helper()
	name := metav1.ObjectMeta{GenerateName: "nodes-"}
	roles := shared.client.RbacV1()
	role, err := roles.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: name,
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"get"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = roles.ClusterRoles().Delete(context.Background(), role.Name, metav1.DeleteOptions{}) })
	binding, err := roles.ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: name,
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "reader", Namespace: ns}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = roles.ClusterRoleBindings().Delete(context.Background(), binding.Name, metav1.DeleteOptions{})
	})
}

// TestNoShellByTheWayToNodes: "get" on nodes/proxy must not open containers.
func TestNoShellByTheWayToNodes(t *testing.T) {
	ns := namespace(t)
	startAgent(t, ns)
	url := shared.client.CoreV1().RESTClient().Post().AbsPath(viaNode, "exec", ns, "p", "c1").
		Param(corev1.ExecStdoutParam, "1").Param(corev1.ExecCommandParam, "say").URL()
	executor, err := remotecommand.NewSPDYExecutor(shared.config, http.MethodGet, url)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "streams to containers go by the subresources of their pods") {
		t.Errorf("the node was asked: %v", err)
	}
}
