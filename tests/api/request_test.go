// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// tree is JSON.
type tree = map[string]any

func object(apiVersion, kind, namespace, name string) tree {
	meta := tree{"name": name}
	if namespace != "" {
		meta["namespace"] = namespace
	}
	return tree{"apiVersion": apiVersion, "kind": kind, "metadata": meta}
}

// call sends a request and returns the answer's code and body.
func call(t *testing.T, config *rest.Config, method, path string, header http.Header, body []byte) (int, []byte) {
	t.Helper()
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, config.Host+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	response, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, data
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var jsonHeader = http.Header{"Content-Type": {"application/json"}}

// post creates an object as the administrator and checks the code.
func post(t *testing.T, path string, body tree, want int) []byte {
	t.Helper()
	code, data := call(t, shared.config, http.MethodPost, path, jsonHeader, encode(t, body))
	if code != want {
		t.Fatalf("POST %s: %d, want %d: %s", path, code, want, data)
	}
	return data
}

// patch changes an object as the administrator.
func patch(t *testing.T, path, contentType string, body []byte) (int, []byte) {
	t.Helper()
	return call(t, shared.config, http.MethodPatch, path, http.Header{"Content-Type": {contentType}}, body)
}

func get(t *testing.T, path string, into any) {
	t.Helper()
	code, data := call(t, shared.config, http.MethodGet, path, nil, nil)
	if code != http.StatusOK {
		t.Fatalf("GET %s: %d: %s", path, code, data)
	}
	decode(t, data, into)
}

func decode(t *testing.T, data []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
}

func status(t *testing.T, data []byte) metav1.Status {
	t.Helper()
	var s metav1.Status
	decode(t, data, &s)
	return s
}
