package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
)

// lister reads the list of a kind in one answer and converts each object as it is decoded, so that the whole objects
// are never in memory together. The other way to begin, a watch that sends all objects first, costs the API server
// and us an event for each: of 10,000 EndpointSlices it took twice as long, and of a start with as many Services a third.
type lister struct {
	client  rest.Interface
	kind    string
	options func(*metav1.ListOptions)
	// one decodes one object from protobuf and converts it, converted does so with one that came in another encoding.
	one       func(encoded []byte) (runtime.Object, error)
	converted func(object runtime.Object) (runtime.Object, error)
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
	answer := l.client.Get().Resource(l.kind).VersionedParams(&o, metav1.ParameterCodec).Do(ctx)
	raw, err := answer.Raw()
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", l.kind, err)
	}
	out := &list{}
	if encoded, ok := bytes.CutPrefix(raw, protobufMagic); ok {
		err = l.decode(encoded, out)
	} else {
		err = l.generic(answer, out)
	}
	if err == nil && out.ResourceVersion == "" {
		err = errNoVersion
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of %s: %w", l.kind, err)
	}
	return out, nil
}

// errNoVersion: every list has a version, and what has none is no list. It matters since all that a list lacks counts as deleted.
var errNoVersion = errors.New("the answer has no resourceVersion")

// protobufMagic is what Kubernetes puts before an object in protobuf.
var protobufMagic = []byte("k8s\x00")

// decode takes the envelope off, runtime.Unknown, and reads the list object by object.
func (l *lister) decode(encoded []byte, out *list) error {
	const rawField = 2
	return fields(encoded, func(number protowire.Number, value []byte) error {
		if number != rawField {
			return nil
		}
		return fields(value, func(number protowire.Number, value []byte) error { return l.field(number, value, out) })
	})
}

// field is one of a list: in every kind 1 is its metadata, 2 an item.
func (l *lister) field(number protowire.Number, value []byte, out *list) error {
	const metaField, itemField = 1, 2
	if number == metaField {
		return out.ListMeta.Unmarshal(value)
	}
	if number != itemField {
		return nil
	}
	object, err := l.one(value)
	if err != nil {
		return err
	}
	out.Items = append(out.Items, object)
	return nil
}

// fields gives visit each field that has a length; Kubernetes' messages of lists have no others.
func fields(b []byte, visit func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		if kind != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
				return protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := visit(number, value); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// generic reads an answer that is not protobuf, as from an API server behind a proxy that knows JSON only.
func (l *lister) generic(answer rest.Result, out *list) error {
	whole, err := answer.Get()
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
	Unmarshal(encoded []byte) error
}

// listed makes a lister for a store.
func listed[T any, P message[T], V any](client rest.Interface, options func(*metav1.ListOptions), t *store[V]) *lister {
	return &lister{
		client: client, kind: t.kind, options: options,
		one: func(encoded []byte) (runtime.Object, error) {
			object := P(new(T))
			if err := object.Unmarshal(encoded); err != nil {
				return nil, err
			}
			return t.read(object)
		},
		converted: func(object runtime.Object) (runtime.Object, error) { return t.read(object) },
	}
}
