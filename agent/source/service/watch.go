package service

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/net"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// watch follows the changes of a kind from a version on. Who reads one puts it into the store himself: the reflector, which
// would have done so, hears only how far that has come, so that it can go on from there. That spares each change a
// goroutine that must be woken, and the decoders that find out what it is.
func (l *lister) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	l.options(&o)
	o.Watch = true
	body, err := l.begin(ctx, &o)
	switch {
	case cutOff(err):
		return watch.NewEmptyWatch(), nil // it has taken so long that the reflector asks again from the same version
	case err != nil:
		return nil, fmt.Errorf("watch %s: %w", l.kind, err)
	}
	f := &follower{lister: l, body: body, in: bufio.NewReader(body), change: func(kind watch.EventType, encoded []byte) (string, error) { return l.change(ctx, kind, encoded) }}
	return watch.NewStreamWatcher(f, apierrors.NewClientErrorReporter(500, "watch", "ClientWatchDecoding")), nil
}

// beginTries and beginPause are those of client-go's own watches. A reflector that is given an error, or a watch that ends at once,
// lists everything again, which every agent would do just when the API server has come back.
const (
	beginTries = 10
	beginPause = time.Second
)

// begin asks for a watch, and again if the connection is cut off before there is an answer.
func (l *lister) begin(ctx context.Context, o *metav1.ListOptions) (body io.ReadCloser, err error) {
	for range beginTries {
		body, err = l.client.Get().Resource(l.kind).VersionedParams(o, metav1.ParameterCodec).Stream(ctx)
		if !cutOff(err) {
			return body, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(beginPause):
		}
	}
	return nil, err
}

func cutOff(err error) bool { return net.IsProbableEOF(err) || net.IsTimeout(err) }

// follower reads one watch.
type follower struct {
	*lister
	// change puts a change into the store.
	change func(kind watch.EventType, encoded []byte) (version string, err error)
	body   io.Closer
	in     *bufio.Reader
	// text reads an answer that is not protobuf.
	text *json.Decoder
	room []byte
	// version is that of the last change in the store, told the last that the reflector has heard of.
	version, told string
	// news is what the reflector has to hear, after the version.
	news *news
}

type news struct {
	kind   watch.EventType
	object runtime.Object
	err    error
}

var _ watch.Decoder = (*follower)(nil)

// Close ends the watch.
func (f *follower) Close() { _ = f.body.Close() }

// Decode reads until there is something that the reflector has to hear: the end, at the latest.
func (f *follower) Decode() (watch.EventType, runtime.Object, error) {
	for f.news == nil {
		f.news = f.take()
	}
	if f.version != f.told {
		// What comes next may make it list again: not an older state than what is in the store.
		f.told = f.version
		return watch.Bookmark, f.bookmark(f.version), nil
	}
	n := *f.news
	if n.err == nil {
		f.news = nil
	}
	if n.kind == watch.Error {
		f.news = &news{err: io.EOF} // the reflector may be at its next list already: nothing more goes into the store
	}
	return n.kind, n.object, n.err
}

// take reads an event, and puts a change into the store.
func (f *follower) take() *news {
	kind, encoded, err := f.event()
	if err != nil {
		return &news{err: err}
	}
	switch kind {
	case watch.Added, watch.Modified, watch.Deleted:
		version, err := f.change(kind, encoded)
		if version != "" {
			f.version = version
		}
		if err != nil {
			return &news{err: err}
		}
		return nil
	case watch.Error, watch.Bookmark:
	default:
		return &news{err: fmt.Errorf("an event of type %q", kind)}
	}
	object, err := runtime.Decode(f.decoder, encoded)
	if kind == watch.Bookmark && err == nil {
		var m metav1.Object
		if m, err = meta.Accessor(object); err == nil {
			f.version = m.GetResourceVersion()
			f.told = f.version
		}
	}
	return &news{kind, object, err}
}

// event reads an event: what has happened, and the object as it is encoded, which is good until the next.
func (f *follower) event() (watch.EventType, []byte, error) {
	if f.text != nil {
		return f.eventInText()
	}
	const sizeOfSize = 4
	head, err := f.in.Peek(sizeOfSize)
	switch {
	case len(head) == 0 && err != nil:
		return "", nil, err
	case head[0] == '{': // in protobuf that would be a length of two GB
		f.text = json.NewDecoder(f.in)
		return f.eventInText()
	case err != nil:
		return "", nil, cut(err)
	}
	size := int(binary.BigEndian.Uint32(head))
	_, _ = f.in.Discard(sizeOfSize) // they have been seen
	if size > maxValue {
		return "", nil, fmt.Errorf("an event of %d bytes", size)
	}
	if cap(f.room) < size {
		f.room = make([]byte, size+size/4)
	}
	event := f.room[:size]
	if _, err := io.ReadFull(f.in, event); err != nil {
		return "", nil, cut(err)
	}
	// metav1.WatchEvent, with the object in a runtime.RawExtension.
	const typeField, objectField, rawField = 1, 2, 1
	kind, err1 := field(event, typeField)
	object, err2 := field(event, objectField)
	raw, err3 := field(object, rawField)
	return watch.EventType(kind), raw, errors.Join(err1, err2, err3)
}

func (f *follower) eventInText() (watch.EventType, []byte, error) {
	var e metav1.WatchEvent
	err := f.text.Decode(&e)
	return watch.EventType(e.Type), e.Object.Raw, err
}

// field is the last field of a number in a message; one that is not there is empty.
func field(message []byte, number protowire.Number) (value []byte, err error) {
	for len(message) > 0 {
		n, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		content := message[size:]
		if size = protowire.ConsumeFieldValue(n, kind, content); size < 0 {
			return nil, protowire.ParseError(size)
		}
		if n == number && kind == protowire.BytesType {
			value, _ = protowire.ConsumeBytes(content)
		}
		message = content[size:]
	}
	return value, nil
}

// change puts a change into the store, and returns the version of the object. An object that cannot be read is reported and left
// out, as a reflector does.
func change[T any, P message[T], V any](ctx context.Context, decoder runtime.Decoder, t *store[V], kind watch.EventType, encoded []byte) (version string, err error) {
	var object runtime.Object
	if content, binary := bytes.CutPrefix(encoded, protobufMagic); binary {
		o := P(new(T))
		const rawField = 2 // of runtime.Unknown
		if content, err = field(content, rawField); err == nil {
			err = o.Unmarshal(content)
		}
		object = o
	} else {
		object, err = runtime.Decode(decoder, encoded)
	}
	var m metav1.Object
	if err == nil {
		m, err = meta.Accessor(object)
	}
	if err != nil {
		return "", fmt.Errorf("read a change of %s: %w", t.kind, err)
	}
	put := t.Update
	if kind == watch.Deleted {
		put = t.Delete
	}
	if err := put(object); err != nil {
		utilruntime.HandleErrorWithContext(ctx, err, "a change is left out", "kind", t.kind, "object", m.GetNamespace()+"/"+m.GetName())
	}
	return m.GetResourceVersion(), nil
}
