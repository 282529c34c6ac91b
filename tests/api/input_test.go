// SPDX-License-Identifier: Apache-2.0

package api

import (
	"net/http"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestBadInputIsRefusedWithReasonAndPlace(t *testing.T) {
	ns := namespace(t)
	core, apps, net := "/api/v1/namespaces/"+ns, "/apis/apps/v1/namespaces/"+ns, "/apis/networking.k8s.io/v1/namespaces/"+ns
	with := func(o tree, spec tree) tree { o["spec"] = spec; return o }
	badSelector := deployment(ns, "d")
	badSelector["spec"].(tree)["selector"] = tree{"matchLabels": tree{"app": "other"}}
	for _, c := range []struct {
		name, path string
		body       tree
		code       int
		reason     metav1.StatusReason
		field      string // of the first cause
		message    string
	}{
		{"an unknown field", core + "/configmaps?fieldValidation=Strict",
			tree{"apiVersion": "v1", "kind": "ConfigMap", "metadata": tree{"name": "a"}, "dta": tree{}}, 400, metav1.StatusReasonBadRequest, "", `unknown field "dta"`},
		{"a wrong type", core + "/configmaps", tree{"apiVersion": "v1", "kind": "ConfigMap", "metadata": tree{"name": "a"}, "data": "text"}, 400, metav1.StatusReasonBadRequest, "", "data"},
		{"a wrong kind", core + "/configmaps", object("v1", "Secret", ns, "a"), 400, metav1.StatusReasonBadRequest, "", "cannot be handled as a ConfigMap"},
		{"another namespace", core + "/configmaps", object("v1", "ConfigMap", "other", "a"), 400, metav1.StatusReasonBadRequest, "", "does not match the namespace"},
		{"a bad name", core + "/configmaps", object("v1", "ConfigMap", ns, "A_b"), 422, metav1.StatusReasonInvalid, "metadata.name", "RFC 1123 subdomain"},
		{"a bad label", core + "/configmaps", tree{"apiVersion": "v1", "kind": "ConfigMap", "metadata": tree{"name": "a", "labels": tree{"a b": "c"}}}, 422, metav1.StatusReasonInvalid, "metadata.labels", "name part"},
		{"no containers", core + "/pods", with(object("v1", "Pod", ns, "p"), tree{"containers": []any{}}), 422, metav1.StatusReasonInvalid, "spec.containers", "Required value"},
		{"no image", core + "/pods", with(object("v1", "Pod", ns, "p"), tree{"containers": []any{tree{"name": "c"}}}), 422, metav1.StatusReasonInvalid, "spec.containers[0].image", "Required value"},
		{"a selector that does not match", apps + "/deployments", badSelector, 422, metav1.StatusReasonInvalid, "spec.template.metadata.labels", "`selector` does not match template `labels`"},
		{"a port out of range", core + "/services", service(ns, "s", tree{"ports": []any{tree{"port": 70000}}}), 422, metav1.StatusReasonInvalid, "spec.ports[0].port", "between 1 and 65535"},
		{"a port twice", core + "/services", service(ns, "s", tree{"ports": []any{tree{"name": "a", "port": 80}, tree{"name": "b", "port": 80}}}), 422, metav1.StatusReasonInvalid, "spec.ports[1]", "Duplicate value"},
		{"a CIDR that is none", net + "/networkpolicies", with(object("networking.k8s.io/v1", "NetworkPolicy", ns, "n"), tree{
			"podSelector": tree{}, "ingress": []any{tree{"from": []any{tree{"ipBlock": tree{"cidr": "ten"}}}}}}), 422, metav1.StatusReasonInvalid, "spec.ingress[0].from[0].ipBlock.cidr", "CIDR"},
		{"an unknown resource", "/apis/apps/v1/namespaces/" + ns + "/nothings", tree{}, 404, metav1.StatusReasonNotFound, "", "could not find the requested resource"},
	} {
		s := status(t, post(t, c.path, c.body, c.code))
		if s.Reason != c.reason && c.code != http.StatusNotFound {
			t.Errorf("%s: reason %s, want %s", c.name, s.Reason, c.reason)
		}
		if c.field != "" && (s.Details == nil || len(s.Details.Causes) == 0 || s.Details.Causes[0].Field != c.field) {
			t.Errorf("%s: %+v, want field %s", c.name, s.Details, c.field)
		}
		if !strings.Contains(s.Message, c.message) {
			t.Errorf("%s: %q, want %q", c.name, s.Message, c.message)
		}
	}
	for _, resource := range []string{core + "/pods", core + "/services", apps + "/deployments", net + "/networkpolicies"} {
		var list metav1.PartialObjectMetadataList
		get(t, resource, &list)
		if len(list.Items) != 0 {
			t.Errorf("%s holds %d objects", resource, len(list.Items))
		}
	}
}

func TestWhatMayNotChange(t *testing.T) {
	ns := namespace(t)
	post(t, "/apis/apps/v1/namespaces/"+ns+"/deployments", deployment(ns, "d"), http.StatusCreated)
	post(t, "/api/v1/namespaces/"+ns+"/services", service(ns, "s", tree{"ports": []any{tree{"port": 80}}}), http.StatusCreated)
	for _, c := range []struct{ name, path, body, field string }{
		{"a selector", "/apis/apps/v1/namespaces/" + ns + "/deployments/d", `{"spec":{"selector":{"matchLabels":{"x":"y"}},"template":{"metadata":{"labels":{"x":"y"}}}}}`, "spec.selector"},
		{"a cluster IP", "/api/v1/namespaces/" + ns + "/services/s", `{"spec":{"clusterIP":"10.96.9.9","clusterIPs":["10.96.9.9"]}}`, "spec.clusterIPs[0]"},
		{"a uid", "/api/v1/namespaces/" + ns + "/services/s", `{"metadata":{"uid":"1"}}`, ""},
	} {
		code, data := patch(t, c.path, "application/merge-patch+json", []byte(c.body))
		if code != http.StatusUnprocessableEntity && code != http.StatusConflict {
			t.Errorf("%s: %d: %s", c.name, code, data)
			continue
		}
		s := status(t, data)
		if c.field != "" && (s.Details == nil || len(s.Details.Causes) == 0 || s.Details.Causes[0].Field != c.field) {
			t.Errorf("%s: %s, want field %s", c.name, data, c.field)
		}
	}
}
