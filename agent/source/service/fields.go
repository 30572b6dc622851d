package service

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields takes a message of protobuf apart as it arrives, so that a list of tens of MiB is never in memory as a whole. Fields
// without a length, of which Kubernetes' messages of lists have none so far, are passed over.
type fields struct {
	in *bufio.Reader
	// left is how many bytes of the message are still to come; negative where its end is that of the input.
	left int64
	// digits are the bytes of the number that is being read.
	digits int
	room   []byte
}

// maxValue bounds an item, in bytes: the API server takes objects of 3 MiB at the most. What says that it is longer is garbage.
const maxValue = 64 << 20

var errLength = errors.New("a field is longer than its message")

// next reads the head of a field: its number and how many bytes follow, which skip, value or nested take. io.EOF is the
// end of the message.
func (f *fields) next() (protowire.Number, int64, error) {
	for {
		if f.left == 0 {
			return 0, 0, io.EOF
		}
		tag, err := f.varint()
		if err != nil {
			return 0, 0, err
		}
		number, kind := protowire.DecodeTag(tag)
		switch {
		case number < protowire.MinValidNumber:
			return 0, 0, fmt.Errorf("a field of number %d", number)
		case kind == protowire.BytesType:
			size, err := f.length()
			return number, size, err
		}
		if err := f.pass(kind); err != nil {
			return 0, 0, err
		}
	}
}

// pass reads a field without a length.
func (f *fields) pass(kind protowire.Type) error {
	size := int64(0)
	switch kind {
	case protowire.VarintType:
		_, err := f.varint()
		return cut(err)
	case protowire.Fixed32Type:
		size = 4
	case protowire.Fixed64Type:
		size = 8
	default:
		return fmt.Errorf("a field of type %d", kind)
	}
	if f.left >= 0 && f.left < size {
		return errLength
	}
	if f.left >= 0 {
		f.left -= size
	}
	return f.skip(size)
}

func (f *fields) length() (int64, error) {
	size, err := f.varint()
	if err != nil {
		return 0, cut(err)
	}
	if f.left >= 0 && size > uint64(f.left) || size > 1<<62 {
		return 0, errLength
	}
	if f.left >= 0 {
		f.left -= int64(size)
	}
	return int64(size), nil
}

// varint reads a number. io.EOF is the end of the input where that may be the end of the message.
func (f *fields) varint() (uint64, error) {
	f.digits = 0
	n, err := binary.ReadUvarint(f)
	if f.left >= 0 || f.digits > 0 {
		err = cut(err)
	}
	return n, err
}

// ReadByte is for varint.
func (f *fields) ReadByte() (byte, error) {
	if f.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	b, err := f.in.ReadByte()
	if err == nil {
		f.digits++
		if f.left > 0 {
			f.left--
		}
	}
	return b, err
}

func (f *fields) skip(size int64) error {
	_, err := io.CopyN(io.Discard, f.in, size)
	return cut(err)
}

// cut is for input that may not end here.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// value reads a field that is no message. It is good until the next call.
func (f *fields) value(size int64) ([]byte, error) {
	if size > maxValue {
		return nil, errLength
	}
	if int64(cap(f.room)) < size {
		f.room = make([]byte, size+size/4)
	}
	b := f.room[:size]
	_, err := io.ReadFull(f.in, b)
	return b, cut(err)
}

// nested is the message in a field.
func (f *fields) nested(size int64) *fields { return &fields{in: f.in, left: size} }
