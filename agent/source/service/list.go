package service

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// lister reads the list of a kind in one answer and converts each object as it is decoded, so that the whole objects
// are never in memory together. The other way to begin, a watch that sends all objects first, costs the API server
// and us an event for each: of 10,000 EndpointSlices it took twice as long, and of a start with as many Services a third.
type lister struct {
	client  rest.Interface
	kind    string
	decoder runtime.Decoder // of all encodings
	options func(*metav1.ListOptions)
	// one decodes one object from protobuf, of which it keeps nothing, and converts it, converted does so with one that came in another encoding.
	one       func(encoded []byte) (runtime.Object, error)
	converted func(object runtime.Object) (runtime.Object, error)
	// change puts a change of an object, in any encoding, into the store, and returns the object's version.
	change func(ctx context.Context, kind watch.EventType, encoded []byte) (version string, err error)
	// bookmark is an object with nothing but a version.
	bookmark func(version string) runtime.Object
}

// IsWatchListSemanticsUnSupported has a reflector list.
func (l *lister) IsWatchListSemanticsUnSupported() bool { return true }

// list is a complete list of converted objects.
type list struct {
	metav1.TypeMeta
	metav1.ListMeta
	Items []runtime.Object
}

// DeepCopyObject makes a list an object; nobody calls it.
func (l *list) DeepCopyObject() runtime.Object {
	out := *l
	out.Items = slices.Clone(l.Items)
	return &out
}

// list reads the list. A reflector that begins would take any state that the API server has in memory, which
// may be older than what the node has in force: it gets one that is not, as with a watch that sends all objects.
func (l *lister) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	l.options(&o)
	if o.ResourceVersion == "0" {
		o.ResourceVersion = ""
	}
	o.Limit = 0
	body, err := l.client.Get().Resource(l.kind).VersionedParams(&o, metav1.ParameterCodec).Stream(ctx)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.kind, err)
	}
	defer func() { _ = body.Close() }() // all of it has been read, or the rest is of no use
	out := &list{}
	if err = l.read(bufio.NewReaderSize(body, readAhead), out); err == nil && out.ResourceVersion == "" {
		err = errNoVersion
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of %s: %w", l.kind, err)
	}
	return out, nil
}

// readAhead is how many bytes are asked of the connection at once.
const readAhead = 64 << 10

// errNoVersion: every list has a version, and what has none is no list. It matters since all that a list lacks counts as deleted.
var errNoVersion = errors.New("the answer has no resourceVersion")

// protobufMagic is what Kubernetes puts before an object in protobuf.
var protobufMagic = []byte("k8s\x00")

func (l *lister) read(in *bufio.Reader, out *list) error {
	begin, err := in.Peek(len(protobufMagic))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !bytes.Equal(begin, protobufMagic) {
		return l.generic(in, out)
	}
	_, _ = in.Discard(len(protobufMagic)) // they have been seen
	return l.decode(&fields{in: in, left: -1}, out)
}

// decode takes the envelope off, runtime.Unknown, and reads the list object by object as they arrive.
func (l *lister) decode(envelope *fields, out *list) error {
	const rawField = 2
	for {
		number, size, err := envelope.next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case number != rawField:
			err = envelope.skip(size)
		default:
			err = l.items(envelope.nested(size), out)
		}
		if err != nil {
			return err
		}
	}
}

// items reads a list: in every kind 1 is its metadata, 2 an item.
func (l *lister) items(all *fields, out *list) error {
	const metaField, itemField = 1, 2
	for {
		number, size, err := all.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var value []byte
		if err == nil {
			value, err = all.value(size)
		}
		if err != nil {
			return err
		}
		if number == metaField {
			err = out.ListMeta.Unmarshal(value)
		}
		if number == itemField {
			var object runtime.Object
			object, err = l.one(value)
			out.Items = append(out.Items, object)
		}
		if err != nil {
			return err
		}
	}
}

// generic reads an answer that is not protobuf, as from an API server behind a proxy that knows JSON only.
func (l *lister) generic(in io.Reader, out *list) error {
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	whole, err := runtime.Decode(l.decoder, text)
	if err != nil {
		return err
	}
	m, err := meta.ListAccessor(whole)
	if err != nil {
		return err
	}
	out.ResourceVersion = m.GetResourceVersion()
	return meta.EachListItem(whole, func(object runtime.Object) error {
		c, err := l.converted(object)
		out.Items = append(out.Items, c)
		return err
	})
}

// message is an object that reads itself from protobuf.
type message[T any] interface {
	*T
	runtime.Object
	metav1.Object
	Unmarshal(encoded []byte) error
}

// listed makes a lister for a store.
func listed[T any, P message[T], V any](client rest.Interface, decoder runtime.Decoder, options func(*metav1.ListOptions), t *store[V]) *lister {
	return &lister{
		client: client, kind: t.kind, decoder: decoder, options: options,
		one: func(encoded []byte) (runtime.Object, error) {
			object := P(new(T))
			if err := object.Unmarshal(encoded); err != nil {
				return nil, err
			}
			return t.read(object)
		},
		converted: func(object runtime.Object) (runtime.Object, error) { return t.read(object) },
		change: func(ctx context.Context, kind watch.EventType, encoded []byte) (string, error) {
			return change[T, P](ctx, decoder, t, kind, encoded)
		},
		bookmark: func(version string) runtime.Object {
			object := P(new(T))
			object.SetResourceVersion(version)
			return object
		},
	}
}
