//! Entities and their text -> a panic if an offset is wrong.

use chemtag::Entity;

/// Entities stand in order, do not overlap, slice out their own text and have a probability.
pub fn check_offsets(text: &str, entities: &[Entity]) {
    let mut end = 0;
    for entity in entities {
        assert!(entity.start >= end && entity.start < entity.end, "{entity:?} after byte {end}");
        assert_eq!(&text[entity.start..entity.end], entity.text);
        assert!(entity.score > 0. && entity.score <= 1.);
        end = entity.end;
    }
}
