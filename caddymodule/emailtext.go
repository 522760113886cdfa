package caddymodule

import (
	"net/http"
	"strings"
)

func (e *emailReader) subject() (err error) {
	e.request.message.Subject, err = e.string()
	e.request.hasSubject = true
	return err
}

func (e *emailReader) plain() (err error) {
	e.request.message.Text, err = e.long()
	return err
}

func (e *emailReader) html() (err error) {
	e.request.message.HTML, err = e.long()
	return err
}

// long reads a text.
func (e *emailReader) long() (string, error) {
	if !e.take('"') {
		return "", e.noString("must be a string")
	}
	e.text = e.text[:0]
	var b strings.Builder
	for {
		piece, end, err := e.piece()
		if err != nil {
			return "", err
		}
		if err := e.hold(len(piece)); err != nil {
			return "", err
		}
		switch {
		case b.Len() == 0 && len(e.text)+len(piece) <= maxShort:
			e.text = append(e.text, piece...)
			if end {
				return string(e.text), nil
			}
			continue
		case b.Len() == 0:
			b.Grow(4 * maxShort)
			b.Write(e.text)
		}
		b.Write(piece)
		if end {
			return b.String(), nil
		}
	}
}

// hold takes memory for more of a text.
func (e *emailReader) hold(n int) error {
	if e.texts += n; e.texts > maxText {
		return refuse(http.StatusRequestEntityTooLarge, nameValidation, "too_large",
			"text and html have over 16 MiB together. Send what is that large as an attachment.")
	}
	if e.room == nil {
		return nil
	}
	return e.room.hold(e.texts)
}
