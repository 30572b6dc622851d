package service

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// event is one as the API server sends it.
func event(t testing.TB, contentType string, kind watch.EventType, o runtime.Object) []byte {
	t.Helper()
	raw := encodings(t, o)[contentType]
	if contentType == runtime.ContentTypeJSON {
		return fmt.Appendf(nil, "{\"type\":%q,\"object\":%s}\n", kind, raw)
	}
	e := metav1.WatchEvent{Type: string(kind), Object: runtime.RawExtension{Raw: raw}}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// version is a slice of the Service shop, or another object, as of a version.
func version[O metav1.Object](version string, o O) O {
	o.SetResourceVersion(version)
	return o
}

func shopSlice(name string, addresses ...string) *discoveryv1.EndpointSlice {
	s := endpointSlice(name, "shop", time.Time{}, addresses...)
	s.TypeMeta = metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"}
	return s
}

func expired() *metav1.Status {
	return &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: http.StatusGone, Message: "too old",
	}
}

// following is a source whose EndpointSlices come from a server.
func following(t *testing.T, url string) (*Source, watched) {
	t.Helper()
	client, err := newClient(&rest.Config{Host: url}, discoveryv1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	s := newSource(Config{Node: "node1"})
	labels := func(o *metav1.ListOptions) { o.LabelSelector = served }
	st := &store[*slice]{source: s, kind: "endpointslices", convert: sliceFrom, put: s.putSlice, remove: s.removeSlice, replace: s.replaceSlices}
	l := listed[discoveryv1.EndpointSlice](client, serializer.NewCodecFactory(scheme).UniversalDeserializer(), labels, st)
	return s, watched{st.kind, client, labels, &discoveryv1.EndpointSlice{}, st, l}
}

// has is what the source has: the addresses of each slice.
func (s *Source) has() map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]string{}
	for name, v := range s.slices.byName {
		var addresses []string
		for _, e := range v.Endpoints {
			addresses = append(addresses, e.Addr.String())
		}
		out[name.Name] = strings.Join(addresses, " ")
	}
	return out
}

// heard are the events that a reflector hears of a watch that answers with body, as type and version.
func heard(t *testing.T, contentType string, body []byte) (*Source, []string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("watch") != "true" || q.Get("resourceVersion") != "9" || q.Get("labelSelector") != served {
			t.Errorf("asked for %v", q)
		}
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	s, w := following(t, server.URL)
	events, err := w.lister.watch(t.Context(), metav1.ListOptions{ResourceVersion: "9"})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	var out []string
	for e := range events.ResultChan() {
		text := string(e.Type)
		if status, ok := e.Object.(*metav1.Status); ok {
			text += " " + status.Message
		} else if m, err := meta.Accessor(e.Object); err == nil {
			text += " " + m.GetResourceVersion()
		}
		out = append(out, text)
	}
	return s, out
}

// TestWatchInEveryEncoding: changes go into the store, and a reflector hears how far that has come.
func TestWatchInEveryEncoding(t *testing.T) {
	for _, contentType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		var body []byte
		for _, e := range []struct {
			kind   watch.EventType
			object runtime.Object
		}{
			{watch.Added, version("10", shopSlice("shop-1", "10.0.0.1"))},
			{watch.Modified, version("11", shopSlice("shop-1", "10.0.0.1", "10.0.0.2"))},
			{watch.Bookmark, version("20", shopSlice("", ""))},
			{watch.Added, version("21", shopSlice("shop-2", "10.0.0.3"))},
			{watch.Added, version("22", shopSlice("shop-3", "10.0.0.4"))},
			{watch.Deleted, version("23", shopSlice("shop-2", "10.0.0.3"))},
		} {
			body = append(body, event(t, contentType, e.kind, e.object)...)
		}
		s, got := heard(t, contentType, body)
		if want := []string{"BOOKMARK 20", "BOOKMARK 23"}; !slices.Equal(got, want) {
			t.Errorf("%s: heard of %q, want %q", contentType, got, want)
		}
		if want := map[string]string{"shop-1": "10.0.0.1 10.0.0.2", "shop-3": "10.0.0.4"}; !maps.Equal(s.has(), want) {
			t.Errorf("%s: the source has %v, want %v", contentType, s.has(), want)
		}
		if c := s.Take(); c.SliceEvents != 5 || c.SliceChanges != 5 {
			t.Errorf("%s: changes are %+v", contentType, c)
		}
	}
}

// TestNothingAfterAnError: a reflector lists again then, and what the list says must not be overwritten by what is older.
func TestNothingAfterAnError(t *testing.T) {
	for _, contentType := range []string{runtime.ContentTypeProtobuf, runtime.ContentTypeJSON} {
		body := slices.Concat(event(t, contentType, watch.Added, version("10", shopSlice("shop-1", "10.0.0.1"))),
			event(t, contentType, watch.Error, expired()), event(t, contentType, watch.Added, version("11", shopSlice("shop-2", "10.0.0.2"))))
		s, got := heard(t, contentType, body)
		if want := []string{"BOOKMARK 10", "ERROR too old"}; !slices.Equal(got, want) {
			t.Errorf("%s: heard of %q, want %q", contentType, got, want)
		}
		if want := map[string]string{"shop-1": "10.0.0.1"}; !maps.Equal(s.has(), want) {
			t.Errorf("%s: the source has %v, want %v", contentType, s.has(), want)
		}
	}
}

// TestWatchIsCut anywhere: what came in whole is there, nothing else, and it is not told as an error, since it is just asked again.
func TestWatchIsCut(t *testing.T) {
	first := event(t, runtime.ContentTypeProtobuf, watch.Added, version("10", shopSlice("shop-1", "10.0.0.1")))
	second := event(t, runtime.ContentTypeProtobuf, watch.Modified, version("11", shopSlice("shop-1", "10.0.0.2")))
	body := slices.Concat(first, second)
	for n := range len(body) {
		s, got := heard(t, runtime.ContentTypeProtobuf, body[:n])
		has, want := map[string]string{}, []string(nil)
		if n >= len(first) {
			has, want = map[string]string{"shop-1": "10.0.0.1"}, []string{"BOOKMARK 10"}
		}
		if !slices.Equal(got, want) || !maps.Equal(s.has(), has) {
			t.Fatalf("%d of %d bytes: heard of %q, the source has %v", n, len(body), got, s.has())
		}
	}
}

// TestWatchOfGarbage is told, and ends the watch.
func TestWatchOfGarbage(t *testing.T) {
	broken := event(t, runtime.ContentTypeProtobuf, watch.Added, version("11", shopSlice("shop-2", "10.0.0.2")))
	copy(broken[len(broken)-12:], bytes.Repeat([]byte{0xff}, 12))
	good := event(t, runtime.ContentTypeProtobuf, watch.Added, version("10", shopSlice("shop-1", "10.0.0.1")))
	unknown := event(t, runtime.ContentTypeProtobuf, "MOVED", version("12", shopSlice("shop-3", "10.0.0.3")))
	for what, garbage := range map[string][]byte{
		"a page": []byte("<html>not an API server"), "too long": {0x7f, 0, 0, 0, 0}, "no event": {0, 0, 0, 1, 0xff}, "no object": broken,
		"an empty event": {0, 0, 0, 0}, "an unknown event": unknown,
	} {
		s, got := heard(t, runtime.ContentTypeProtobuf, slices.Concat(good, garbage, good))
		if len(got) != 2 || got[0] != "BOOKMARK 10" || !strings.HasPrefix(got[1], "ERROR ") || !strings.Contains(got[1], "unable to decode") {
			t.Errorf("%s: heard of %q", what, got)
		}
		if want := map[string]string{"shop-1": "10.0.0.1"}; !maps.Equal(s.has(), want) {
			t.Errorf("%s: the source has %v, want %v", what, s.has(), want)
		}
	}
}

// TestUnreadableObjectIsLeftOut: one that no proxy can serve does not keep the others from being served.
func TestUnreadableObjectIsLeftOut(t *testing.T) {
	odd := version("10", shopSlice("shop-1", "10.0.0.1"))
	odd.AddressType = "IPv5"
	body := slices.Concat(event(t, runtime.ContentTypeProtobuf, watch.Added, version("9", shopSlice("shop-2", "10.0.0.2"))), event(t, runtime.ContentTypeProtobuf, watch.Added, odd))
	s, got := heard(t, runtime.ContentTypeProtobuf, body)
	if want := []string{"BOOKMARK 10"}; !slices.Equal(got, want) {
		t.Errorf("heard of %q, want %q", got, want)
	}
	if _, ok := s.has()["shop-2"]; !ok {
		t.Errorf("the source has %v", s.has())
	}
}

// TestWatchGoesOn: a watch that ended is asked for again from the last change on, without a list; one that the API server
// cannot go on with is preceded by a list that is not older.
func TestWatchGoesOn(t *testing.T) {
	const p = runtime.ContentTypeProtobuf
	list := func(version string, items ...*discoveryv1.EndpointSlice) []byte {
		out := sampleList()
		out.ResourceVersion, out.Items = version, nil
		for _, i := range items {
			out.Items = append(out.Items, *i)
		}
		return encodings(t, out)[p]
	}
	steps := []struct {
		watch   bool
		version string // that is asked for
		answer  []byte
	}{
		{false, "", list("100", version("90", shopSlice("shop-1", "10.0.0.1")))},
		{true, "100", slices.Concat(event(t, p, watch.Added, version("101", shopSlice("shop-2", "10.0.0.2"))), event(t, p, watch.Added, version("102", shopSlice("shop-3", "10.0.0.3"))))},
		{true, "102", slices.Concat(event(t, p, watch.Deleted, version("103", shopSlice("shop-3", "10.0.0.3"))), event(t, p, watch.Error, expired()))},
		{false, "103", list("110", version("90", shopSlice("shop-1", "10.0.0.1")), version("105", shopSlice("shop-4", "10.0.0.4")))},
		{true, "110", event(t, p, watch.Modified, version("111", shopSlice("shop-4", "10.0.0.5")))},
		{true, "111", nil},
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	next, over := 0, make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if next == len(steps) {
			return
		}
		step := steps[next]
		if isWatch := q.Get("watch") == "true"; isWatch != step.watch || q.Get("resourceVersion") != step.version {
			t.Errorf("request %d is %v, want a watch (%t) from %q", next, q, step.watch, step.version)
		}
		w.Header().Set("Content-Type", p)
		if step.answer == nil {
			w.WriteHeader(http.StatusOK)
			http.NewResponseController(w).Flush()
			close(over)
			<-ctx.Done()
			return
		}
		next++
		_, _ = w.Write(step.answer)
	}))
	t.Cleanup(server.Close)
	s, w := following(t, server.URL)
	done := make(chan struct{})
	go func() { w.run(ctx); close(done) }()
	t.Cleanup(func() { stop(); <-done })
	select {
	case <-over:
	case <-ctx.Done():
		t.Fatalf("after request %d nothing came for a minute", next)
	}
	if want := map[string]string{"shop-1": "10.0.0.1", "shop-4": "10.0.0.5"}; !maps.Equal(s.has(), want) {
		t.Errorf("the source has %v, want %v", s.has(), want)
	}
}

// open is a watch that goes on after body, until the client ends it, which is told.
func open(t *testing.T, body []byte) (s *Source, w watched, ended <-chan struct{}) {
	t.Helper()
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		_, _ = w.Write(body)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(over)
	}))
	t.Cleanup(server.Close)
	s, w = following(t, server.URL)
	return s, w, over
}

// TestChangeIsThereAtOnce, before anything comes after it.
func TestChangeIsThereAtOnce(t *testing.T) {
	s, w, ended := open(t, event(t, runtime.ContentTypeProtobuf, watch.Added, version("10", shopSlice("shop-1", "10.0.0.1"))))
	events, err := w.lister.watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	<-s.Changed()
	if want := map[string]string{"shop-1": "10.0.0.1"}; !maps.Equal(s.has(), want) {
		t.Errorf("the source has %v, want %v", s.has(), want)
	}
	events.Stop()
	<-ended
}

// TestErrorEndsTheWatch : nothing of it stays at the API server.
func TestErrorEndsTheWatch(t *testing.T) {
	_, w, ended := open(t, event(t, runtime.ContentTypeProtobuf, watch.Error, expired()))
	events, err := w.lister.watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if e := <-events.ResultChan(); e.Type != watch.Error {
		t.Errorf("heard of %v", e)
	}
	<-ended
}

// TestWatchIsAskedForAgain if the connection is cut before an answer: neither is that an error, after which a reflector lists, nor is the
// watch over in no time, after which it does so as well.
func TestWatchIsAskedForAgain(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked++; asked <= 2 {
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_ = c.Close()
			return
		}
		w.Header().Set("Content-Type", runtime.ContentTypeProtobuf)
		_, _ = w.Write(event(t, runtime.ContentTypeProtobuf, watch.Added, version("10", shopSlice("shop-1", "10.0.0.1"))))
	}))
	t.Cleanup(server.Close)
	s, w := following(t, server.URL)
	events, err := w.lister.watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range events.ResultChan() {
		continue
	}
	if want := map[string]string{"shop-1": "10.0.0.1"}; !maps.Equal(s.has(), want) {
		t.Errorf("after %d requests the source has %v, want %v", asked, s.has(), want)
	}
}

// TestRefusedConnection is told as it is: a reflector asks again after a pause then, without a list.
func TestRefusedConnection(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	_, w := following(t, server.URL)
	if _, err := w.lister.watch(t.Context(), metav1.ListOptions{}); !utilnet.IsConnectionRefused(err) || !strings.Contains(err.Error(), "endpointslices") {
		t.Errorf("it is told as %v", err)
	}
}

// FuzzWatch: no answer makes the reader panic or go on for ever.
func FuzzWatch(f *testing.F) {
	f.Add(event(f, runtime.ContentTypeProtobuf, watch.Added, shopSlice("shop-1", "10.0.0.1")))
	f.Add(event(f, runtime.ContentTypeJSON, watch.Error, expired()))
	scheme, err := newScheme()
	if err != nil {
		f.Fatal(err)
	}
	decoder := serializer.NewCodecFactory(scheme).UniversalDeserializer()
	f.Fuzz(func(t *testing.T, b []byte) {
		s := newSource(Config{})
		st := &store[*slice]{source: s, kind: "endpointslices", convert: sliceFrom, put: s.putSlice, remove: s.removeSlice}
		l := listed[discoveryv1.EndpointSlice](nil, decoder, nil, st)
		w := &follower{lister: l, body: io.NopCloser(nil), in: bufio.NewReader(bytes.NewReader(b)), change: func(kind watch.EventType, encoded []byte) (string, error) {
			return l.change(t.Context(), kind, encoded)
		}}
		for range len(b) + 2 {
			if _, _, err := w.Decode(); err != nil {
				return
			}
		}
		t.Error("it does not end")
	})
}
