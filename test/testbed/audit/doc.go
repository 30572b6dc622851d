// Package audit watches the underlay and reports every packet that carries a
// Pod or mesh address in the clear: the leak audit. It sees every frame that
// crosses the underlay bridge, says so when the kernel could not hand it all of
// them, and proves itself, before and after, with packets of its own making
// that it must find.
package audit
