// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	restful "github.com/emicklei/go-restful/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/handler3"

	"skep.dev/skep/controlplane/openapi"
)

// testDocuments serves the documents of one small web service.
func testDocuments() (*documents, http.Handler) {
	service := new(restful.WebService).Path("/version").Produces(restful.MIME_JSON)
	service.Route(service.GET("/").Operation("getVersion").Writes(version.Info{}).To(func(*restful.Request, *restful.Response) {}))
	namer := openapinamer.NewDefinitionNamer(runtime.NewScheme())
	v2 := genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	v3 := genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	v2.GetOperationIDAndTagsFromRoute, v3.GetOperationIDAndTagsFromRoute = operation, operation
	d := newDocuments(restful.NewContainer().Add(service), v2, v3)
	m := mux.NewPathRecorderMux("test")
	d.install(m)
	return d, m
}

func get(t *testing.T, h http.Handler, path string, header ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Accept", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func indexed(t *testing.T, h http.Handler, path string) string {
	t.Helper()
	var index handler3.OpenAPIV3Discovery
	if err := json.Unmarshal(get(t, h, openAPIv3Path).Body.Bytes(), &index); err != nil {
		t.Fatal(err)
	}
	return index.Paths[path].ServerRelativeURL
}

func (d *documents) inMemory() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.made)
}

func TestIndexNamesAHashOnceTheDocumentIsKnown(t *testing.T) {
	d, h := testDocuments()
	if got := indexed(t, h, "version"); got != "/openapi/v3/version" {
		t.Errorf("before anybody asked: %q", got)
	}
	if n := d.inMemory(); n != 0 {
		t.Errorf("the index made %d documents", n)
	}
	plain := get(t, h, "/openapi/v3/version")
	if !strings.Contains(plain.Body.String(), "io.k8s.apimachinery.pkg.version.Info") {
		t.Fatalf("no document of the version: %d %s", plain.Code, plain.Body)
	}
	location := indexed(t, h, "version")
	hashed := get(t, h, location)
	if !strings.Contains(location, "?hash=") || hashed.Code != http.StatusOK || hashed.Body.String() != plain.Body.String() {
		t.Errorf("%s: %d %s", location, hashed.Code, hashed.Body)
	}
	if got := hashed.Header().Get("Cache-Control"); got != "public, immutable" {
		t.Errorf("cache control of a document with its hash: %q", got)
	}
	if got := get(t, h, "/openapi/v3/version?hash=other").Code; got != http.StatusMovedPermanently {
		t.Errorf("status with another hash: %d", got)
	}
}

func TestDocumentsAreLetGoAndMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := testDocuments()
		var bodies [2][2]string
		for round := range bodies {
			bodies[round] = [2]string{get(t, h, "/openapi/v3/version").Body.String(), get(t, h, openAPIv2Path).Body.String()}
			if n := d.inMemory(); n != 2 {
				t.Errorf("%d documents are kept for the next client", n)
			}
			time.Sleep(documentLife)
			synctest.Wait()
			if n := d.inMemory(); n != 0 {
				t.Errorf("%d documents outlive their use", n)
			}
		}
		if bodies[0] != bodies[1] || !strings.Contains(bodies[0][1], `"swagger":"2.0"`) {
			t.Errorf("documents differ between makings:\n%s", bodies)
		}
	})
}

func TestUnchangedV2DocumentIsNotMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, h := testDocuments()
		etag := get(t, h, openAPIv2Path).Header().Get("Etag")
		time.Sleep(documentLife)
		synctest.Wait()
		if got := get(t, h, openAPIv2Path, "If-None-Match", etag).Code; got != http.StatusNotModified {
			t.Errorf("status with etag %s: %d", etag, got)
		}
		if n := d.inMemory(); n != 0 {
			t.Errorf("%d documents were made to say that nothing changed", n)
		}
	})
}

func TestUnknownGroupVersionHasNoDocument(t *testing.T) {
	_, h := testDocuments()
	if got := get(t, h, "/openapi/v3/apis/none/v1").Code; got != http.StatusNotFound {
		t.Errorf("status: %d", got)
	}
}
