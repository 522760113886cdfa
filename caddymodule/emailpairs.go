package caddymodule

import (
	"github.com/caddy-oauth-mail/caddy-oauth-mail/mailer"
)

func (e *emailReader) headers() error {
	return e.pairs(e.headerValue, func(name, value string) {
		if mailer.ClassifyHeader(name) == mailer.HeaderStructural {
			e.request.warn("the header " + name + " is made by this server; yours was dropped")
			return
		}
		// Compose says what is wrong with a malformed one.
		e.request.message.Headers = append(e.request.message.Headers, mailer.HeaderField{Name: name, Value: value})
	})
}

// headerValue reads a string, or a number as it is written.
func (e *emailReader) headerValue() (string, error) {
	if c := e.peek(); c == '-' || '0' <= c && c <= '9' {
		return e.number()
	}
	return e.string()
}

// metadata reads an object of strings.
func (e *emailReader) metadata() error {
	return e.pairs(e.string, func(name, value string) {
		e.request.metadata = append(e.request.metadata, mailer.Tag{Name: name, Value: value})
	})
}

// pairs reads an object of names that the caller chose, within the limits of headers.
func (e *emailReader) pairs(value func() (string, error), each func(name, value string)) error {
	var m memberWalk
	size := 0
	return e.object(&m, func() error {
		v, err := value()
		if err != nil {
			return err
		}
		if size += len(m.name) + len(v); m.count > maxHeaders || size > maxHeaderBytes {
			e.path[len(e.path)-1] = nowhere
			return invalid(e.place(), "too_many", "there are more than %d, or they are larger than %d KiB", maxHeaders, maxHeaderBytes>>10)
		}
		each(m.name, v)
		return nil
	})
}

func (e *emailReader) tags() error { return e.list(maxTags, e.tag) }

var tagNames = names{"name", "value"}

// tag reads a tag. Some programs have names and values of their own kind.
func (e *emailReader) tag() error {
	var t mailer.Tag
	m := memberWalk{known: tagNames}
	err := e.object(&m, func() (err error) {
		switch m.name {
		case "name":
			t.Name, err = e.string()
		case "value":
			t.Value, err = e.string()
		default:
			err = e.skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(t.Name) > maxTag || len(t.Value) > maxTag {
		return invalid(e.place(), "too_long", "a tag has names and values of up to %d octets", maxTag)
	}
	if t.Name != "" {
		e.request.tags = append(e.request.tags, t)
	}
	return nil
}
