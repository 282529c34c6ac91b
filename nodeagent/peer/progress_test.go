// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// client is where a stream goes to.
type client struct{ *httptest.ResponseRecorder }

func (client) SetWriteDeadline(time.Time) error { return nil }

func (c client) lines() []string { return strings.Fields(c.Body.String()) }

// serve opens streams and returns their ends once they are closed.
func serve(t *testing.T, p *Progress, streams int, during func()) []client {
	ctx, cancel := context.WithCancel(t.Context())
	var clients []client
	for range streams {
		c := client{httptest.NewRecorder()}
		clients = append(clients, c)
		go p.ServeHTTP(c, httptest.NewRequest(http.MethodGet, Path, nil).WithContext(ctx))
	}
	during()
	synctest.Wait()
	cancel()
	synctest.Wait()
	return clients
}

func TestAQuietStreamShowsThatItLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewProgress()
		c := serve(t, p, 1, func() {
			time.Sleep(2*beat + beat/2)
			p.SetPods("7")
		})[0]
		if got, want := strings.Join(c.lines(), " "), `{"pods":""} {"pods":""} {"pods":""} {"pods":"7"}`; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// However fast pods change and however many nodes there are, the streams together send no more than the bound, and end with the last word.
func TestStreamsAreBoundedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const streams, changes = 500, 10000
		p := NewProgress()
		total := 0
		for _, c := range serve(t, p, streams, func() {
			for i := 1; i <= changes; i++ {
				p.SetPods(strconv.Itoa(i))
				time.Sleep(time.Second / changes)
			}
			time.Sleep(streams * perStream)
		}) {
			total += len(c.lines())
			if last := c.lines()[len(c.lines())-1]; last != `{"pods":"10000"}` {
				t.Fatalf("the last word was %s", last)
			}
		}
		// The first line of each comes while the streams are being counted.
		if bound := int(time.Second/perStream) + 3*streams; total > bound {
			t.Errorf("%d lines in a second, more than %d", total, bound)
		}
		t.Logf("%d streams sent %d lines while the number rose %d times", streams, total, changes)
	})
}
