package service

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/client-go/rest"
)

// answering is an API server that answers every request with one body, and tells what it was asked.
func answering(t *testing.T, contentType string, body []byte) (*lister, func() url.Values) {
	t.Helper()
	asked := make(chan url.Values, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Query()
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(body)
	}))
	t.Cleanup(server.Close)
	client, err := newClient(&rest.Config{Host: server.URL}, discoveryv1.SchemeGroupVersion)
	if err != nil {
		t.Fatal(err)
	}
	labels := func(o *metav1.ListOptions) { o.LabelSelector = served }
	s := newSource(Config{Node: "node1"})
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	return listed[discoveryv1.EndpointSlice](client, serializer.NewCodecFactory(scheme).UniversalDeserializer(), labels, &store[*slice]{source: s, kind: "endpointslices", convert: sliceFrom}), func() url.Values { return <-asked }
}

func encodings(t testing.TB, o runtime.Object) map[string][]byte {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := discoveryv1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for name, s := range map[string]runtime.Encoder{
		runtime.ContentTypeProtobuf: protobuf.NewSerializer(scheme, scheme),
		runtime.ContentTypeJSON:     json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme, scheme, json.SerializerOptions{}),
	} {
		var b bytes.Buffer
		if err := s.Encode(o, &b); err != nil {
			t.Fatal(err)
		}
		out[name] = b.Bytes()
	}
	return out
}

func sampleList() *discoveryv1.EndpointSliceList {
	out := &discoveryv1.EndpointSliceList{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"},
		ListMeta: metav1.ListMeta{ResourceVersion: "4711"},
		Items:    []discoveryv1.EndpointSlice{*endpointSlice("shop-1", "shop", time.Time{}, "10.0.0.1", "10.0.0.2"), *endpointSlice("lost-1", "", time.Time{}, "10.0.0.3")},
	}
	return out
}

// TestListInEveryEncoding reads the same list in protobuf, as from an API server, and in JSON, as through a proxy.
func TestListInEveryEncoding(t *testing.T) {
	for contentType, body := range encodings(t, sampleList()) {
		l, asked := answering(t, contentType, body)
		got, err := l.list(t.Context(), metav1.ListOptions{ResourceVersion: "0", Limit: 500})
		if err != nil {
			t.Fatalf("%s: %v", contentType, err)
		}
		all := got.(*list)
		if all.ResourceVersion != "4711" || len(all.Items) != 2 {
			t.Fatalf("%s: %d items of version %q", contentType, len(all.Items), all.ResourceVersion)
		}
		want, err := sliceFrom(&sampleList().Items[0])
		if err != nil {
			t.Fatal(err)
		}
		first, second := all.Items[0].(*item[*slice]), all.Items[1].(*item[*slice])
		if first.name.Name != "shop-1" || !first.value.Equal(want.EndpointSlice) {
			t.Errorf("%s: the first is %+v, want %+v", contentType, first.value, want)
		}
		if second.value != nil {
			t.Errorf("%s: one of no Service is %+v", contentType, second.value)
		}
		// Not a state that may be older than what is in force, all at once, and no other proxy's.
		query := asked()
		if query.Has("resourceVersion") || query.Has("limit") || query.Get("labelSelector") != served {
			t.Errorf("%s: asked for %v", contentType, query)
		}
	}
}

// TestListAgain asks for nothing older than what the reflector has had.
func TestListAgain(t *testing.T) {
	l, asked := answering(t, runtime.ContentTypeProtobuf, encodings(t, sampleList())[runtime.ContentTypeProtobuf])
	if _, err := l.list(t.Context(), metav1.ListOptions{ResourceVersion: "4700"}); err != nil {
		t.Fatal(err)
	}
	if q := asked(); !slices.Equal(q["resourceVersion"], []string{"4700"}) {
		t.Errorf("asked for %v", q)
	}
}

// TestListOfGarbage is an error that names the kind, and never half a list: what is missing from a list counts as deleted.
func TestListOfGarbage(t *testing.T) {
	whole := encodings(t, sampleList())[runtime.ContentTypeProtobuf]
	for _, body := range [][]byte{whole[:len(whole)-1], whole[:len(whole)/2], []byte("k8s\x00\xff\xff\xff"), []byte("k8s\x00"), []byte("<html>"), nil} {
		l, _ := answering(t, runtime.ContentTypeProtobuf, body)
		got, err := l.list(t.Context(), metav1.ListOptions{})
		if err == nil || !strings.Contains(err.Error(), "endpointslices") {
			t.Errorf("%q: %v, %v", body, got, err)
		}
	}
}

// TestFieldsOfOtherTypes: what a later version of Kubernetes may add to a list does not keep it from being read.
func TestFieldsOfOtherTypes(t *testing.T) {
	inner := append([]byte("\x18\x05\x25\x01\x02\x03\x04\x29\x01\x02\x03\x04\x05\x06\x07\x08"), "\x12\x02ok"...)
	f := &fields{in: bufio.NewReader(bytes.NewReader(inner)), left: int64(len(inner))}
	number, size, err := f.next()
	if err != nil || number != 2 || size != 2 {
		t.Fatalf("field %d of %d bytes, %v", number, size, err)
	}
	if value, err := f.value(size); err != nil || string(value) != "ok" {
		t.Errorf("it is %q, %v", value, err)
	}
	if _, _, err := f.next(); !errors.Is(err, io.EOF) {
		t.Errorf("the message ends with %v", err)
	}
}

// FuzzFields: no answer makes the reader panic or go on for ever.
func FuzzFields(f *testing.F) {
	f.Add([]byte("\x0a\x03abc\x10\x01"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		l := &lister{one: func(b []byte) (runtime.Object, error) {
			return &item[*slice]{}, (&discoveryv1.EndpointSlice{}).Unmarshal(b)
		}}
		_ = l.read(bufio.NewReader(bytes.NewReader(append(slices.Clone(protobufMagic), b...))), &list{})
	})
}
