package policy

// The sets of the interfaces of Pods of which packets are judged, with a counter of the packets that
// were denied.
const (
	SetDeniedIn  = setDeniedIn
	SetDeniedOut = setDeniedOut
)

// Options are the settings in use, with their defaults.
func (e *Engine) Options() Options { return e.options }
