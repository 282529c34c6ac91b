// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

func roundTrip(ctx context.Context, t *testing.T, handler http.HandlerFunc) *http.Response {
	t.Helper()
	transport := newInProcess()
	transport.serve(handler)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, loopbackHost+"/p?q=1", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	response, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func TestTheHandlerSeesARequestAndTheClientItsAnswer(t *testing.T) {
	response := roundTrip(t.Context(), t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Saw", r.RequestURI+" "+string(body))
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "short and stout")
	})
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusTeapot || response.Header.Get("X-Saw") != "/p?q=1 body" || string(body) != "short and stout" {
		t.Errorf("%v %v %q %v", response.Status, response.Header, body, err)
	}
}

func TestEventsArriveWhileTheHandlerRuns(t *testing.T) {
	next, ended := make(chan struct{}), make(chan struct{})
	response := roundTrip(t.Context(), t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.(http.Flusher).Flush()
		for range next {
			_, _ = io.WriteString(w, "event")
		}
		<-r.Context().Done()
	})
	next <- struct{}{}
	buffer := make([]byte, 5)
	if _, err := io.ReadFull(response.Body, buffer); err != nil || string(buffer) != "event" {
		t.Fatalf("%q, %v", buffer, err)
	}
	close(next)
	if err := response.Body.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended // closing the body ended the request
}

func TestAWriterThatIsFarAheadWaitsAndIsFreedByTheEnd(t *testing.T) {
	result := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	roundTrip(ctx, t, func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, streamLimit)
		for {
			if _, err := w.Write(chunk); err != nil {
				result <- err
				return
			}
		}
	})
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestAHandlerThatPanicsBreaksTheAnswer(t *testing.T) {
	response := roundTrip(t.Context(), t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	})
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != "half" {
		t.Errorf("%q, %v", body, err)
	}
}
