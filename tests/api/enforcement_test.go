// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"skep.dev/skep/enforcement"
)

// policyAPI is a kind of policy as the tests of its annotation need it.
type policyAPI struct {
	resource, collection, key string
	object                    tree
}

func policyAPIs(ns string) []policyAPI {
	named := object("networking.k8s.io/v1", "NetworkPolicy", ns, "p")
	named["spec"] = tree{"podSelector": tree{}}
	// The name is the namespace's, since a cluster has but one set of them.
	cluster := object("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", "", ns)
	cluster["spec"] = tree{"tier": "Admin", "priority": 5, "subject": tree{"namespaces": tree{}}}
	return []policyAPI{
		{"networkpolicies.networking.k8s.io", "/apis/networking.k8s.io/v1/namespaces/" + ns + "/networkpolicies", "/registry/networkpolicies/" + ns + "/p", named},
		{"clusternetworkpolicies.policy.networking.k8s.io", "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
			"/registry/policy.networking.k8s.io/clusternetworkpolicies/" + ns, cluster},
	}
}

func (p policyAPI) name() string { return p.object["metadata"].(tree)["name"].(string) }

// with is the object with a value of the annotation.
func (p policyAPI) with(value string) tree {
	meta := tree{"annotations": tree{enforcement.Annotation: value}}
	for k, v := range p.object["metadata"].(tree) {
		meta[k] = v
	}
	out := tree{"metadata": meta}
	for k, v := range p.object {
		if k != "metadata" {
			out[k] = v
		}
	}
	return out
}

const unsupported = `metadata.annotations[skep.dev/enforcement]: Unsupported value: \"audits\": supported values: \"audit\", \"enforce\"`

// refuses checks for the error that a bad value gets.
func refuses(t *testing.T, what string, code int, body []byte) {
	t.Helper()
	if code != http.StatusUnprocessableEntity || !bytes.Contains(body, []byte(unsupported)) || !bytes.Contains(body, []byte(`"reason":"Invalid"`)) {
		t.Errorf("%s: %d %s", what, code, body)
	}
}

func TestUnknownEnforcementIsRefused(t *testing.T) {
	ns := namespace(t)
	for _, p := range policyAPIs(ns) {
		t.Run(p.resource, func(t *testing.T) {
			path := p.collection + "/" + p.name()
			deleteAfter(t, path)
			code, body := call(t, shared.config, http.MethodPost, p.collection, jsonHeader, encode(t, p.with("audits")))
			refuses(t, "create", code, body)
			code, body = patch(t, path+"?fieldManager=test", string(types.ApplyPatchType), encode(t, p.with("audits")))
			refuses(t, "apply what is not there", code, body)

			post(t, p.collection, p.with("audit"), http.StatusCreated)
			code, body = patch(t, path+"?fieldManager=test&force=true", string(types.ApplyPatchType), encode(t, p.with("audits")))
			refuses(t, "apply", code, body)
			merge := encode(t, tree{"metadata": tree{"annotations": tree{enforcement.Annotation: "audits"}}})
			code, body = patch(t, path, string(types.MergePatchType), merge)
			refuses(t, "merge patch", code, body)
			code, body = patch(t, path, string(types.JSONPatchType), []byte(`[{"op": "replace", "path": "/metadata/annotations/skep.dev~1enforcement", "value": "audits"}]`))
			refuses(t, "JSON patch", code, body)
			update := p.with("audits")
			update["metadata"].(tree)["resourceVersion"] = versionOf(t, path) // custom resources are never replaced without
			code, body = call(t, shared.config, http.MethodPut, path, jsonHeader, encode(t, update))
			refuses(t, "update", code, body)

			arguments := " " + p.resource + " " + p.name() + " skep.dev/enforcement"
			if p.object["metadata"].(tree)["namespace"] != nil {
				arguments = " -n " + ns + arguments
			}
			out, err := ctl(t, "", "annotate --overwrite"+arguments+"=audits")
			if want := strings.ReplaceAll(unsupported, `\`, ""); err == nil || !strings.Contains(out, want) {
				t.Errorf("kubectl annotate: %v: %s", err, out)
			}
			for _, value := range []string{"=enforce", "=audit", "-"} {
				if out, err := ctl(t, "", "annotate --overwrite"+arguments+value); err != nil {
					t.Errorf("kubectl annotate %s: %v: %s", value, err, out)
				}
			}
		})
	}
}

// A bad value that came into the store behind the server's back neither blocks other changes nor its own removal.
func TestStoredUnknownEnforcementCanBeRepaired(t *testing.T) {
	ns := namespace(t)
	for _, p := range policyAPIs(ns) {
		t.Run(p.resource, func(t *testing.T) {
			path := p.collection + "/" + p.name()
			deleteAfter(t, path)
			post(t, p.collection, p.with("audit"), http.StatusCreated)
			rewrite(t, p.key, "audit", "Audit")
			annotate := func(key string, value any) (int, []byte) {
				return patch(t, path, string(types.MergePatchType), encode(t, tree{"metadata": tree{"annotations": tree{key: value}}}))
			}
			if code, body := annotate("other", "x"); code != http.StatusOK || !bytes.Contains(body, []byte(`"Audit"`)) {
				t.Errorf("another annotation: %d %s", code, body)
			}
			code, body := annotate(enforcement.Annotation, "audits")
			refuses(t, "another bad value", code, body)
			if code, body := annotate(enforcement.Annotation, nil); code != http.StatusOK || bytes.Contains(body, []byte(`"Audit"`)) {
				t.Errorf("removal: %d %s", code, body)
			}
			code, body = annotate(enforcement.Annotation, "audits")
			refuses(t, "a bad value after the removal", code, body)
		})
	}
}

func deleteAfter(t *testing.T, path string) {
	t.Cleanup(func() {
		_ = shared.client.CoreV1().RESTClient().Delete().AbsPath(path).Do(context.Background()).Error()
	})
}

func versionOf(t *testing.T, path string) string {
	t.Helper()
	var object metav1.PartialObjectMetadata
	data, err := shared.client.CoreV1().RESTClient().Get().AbsPath(path).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	decode(t, data, &object)
	return object.ResourceVersion
}

// rewrite changes text in a stored object to other text of the same length.
func rewrite(t *testing.T, key, before, after string) {
	t.Helper()
	store, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + filepath.Join(shared.dir, "etcd", "etcd.sock")}, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	got, err := store.Get(t.Context(), key)
	if err != nil || len(got.Kvs) != 1 || !bytes.Contains(got.Kvs[0].Value, []byte(before)) {
		t.Fatalf("%s in the store: %v, %v", key, got, err)
	}
	if _, err := store.Put(t.Context(), key, strings.ReplaceAll(string(got.Kvs[0].Value), before, after)); err != nil {
		t.Fatal(err)
	}
}
